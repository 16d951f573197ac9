/* A number that threads wait on: first spinning, then asleep. Futexes on Linux, else a condition. */
#ifndef NEXUS_WORD_H
#define NEXUS_WORD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#if defined(__linux__) && !defined(NEXUS_NO_FUTEX)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define USE_FUTEX 1
#endif

/* Numbers that one thread writes and others poll do not share a line with anything else. */
#define OWN_LINE _Alignas(64)

/* Longer than what lies between two kernels of a network; a spinning worker is a neighbour's loss. */
#ifndef SPIN_NS
#define SPIN_NS 50000
#endif

typedef struct {
  OWN_LINE atomic_uint value;
  atomic_uint sleepers;
#ifndef USE_FUTEX
  pthread_mutex_t lock;
  pthread_cond_t changed;
#endif
} word;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
}

/* Whether `*value` came to be (un)equal to `other` while this thread span. */
static int spin(atomic_uint *value, unsigned other, int until_equal) {
  int64_t end = 0;
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if ((atomic_load(value) == other) == until_equal) return 1;
      relax();
    }
    int64_t time = now();
    if (end == 0) end = time + SPIN_NS;
    if (time >= end) return 0;
  }
}

static void word_init(word *w) {
  atomic_store(&w->sleepers, 0);
#ifndef USE_FUTEX
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->changed, NULL);
#endif
}

/* Sleep until the word is no longer `seen`, or for no reason; the caller has counted itself among
 * the sleepers. */
static void word_wait(word *w, unsigned seen) {
#ifdef USE_FUTEX
  syscall(SYS_futex, &w->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
  pthread_mutex_lock(&w->lock);
  while (atomic_load(&w->value) == seen) pthread_cond_wait(&w->changed, &w->lock);
  pthread_mutex_unlock(&w->lock);
#endif
}

/* Change the word. Who goes to sleep counts itself first and looks at the word then, so that one who
 * changes it and finds no sleepers has nobody to wake. */
static void word_change(word *w) { atomic_fetch_add(&w->value, 1); }

/* Wake up to `count` sleepers, which costs some microseconds. */
static void word_wake(word *w, int count) {
#ifdef USE_FUTEX
  syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
#else
  (void)count;
  pthread_mutex_lock(&w->lock);
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
#endif
}

#endif
