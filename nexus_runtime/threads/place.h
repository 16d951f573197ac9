/* Where threads run. Elsewhere than on Linux that is the system's business alone. */
#ifndef NEXUS_PLACE_H
#define NEXUS_PLACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* A thread as others see it. */
typedef struct {
  atomic_int id;    /* the system's */
  atomic_int core;  /* where it fell asleep */
  atomic_int moved; /* whether and how somebody else chose where it runs */
  clockid_t clock;  /* of the processor time that it got */
} place;

enum { NOT_MOVED, STEERED, LENT };

#if defined(__linux__)

static void keep_to(int id, const int *cpus, int count, int but) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < count; ++i) {
    if (cpus[i] != but) CPU_SET(cpus[i], &set);
  }
  /* Cores that have gone since do no harm: the thread stays where it was allowed. */
  if (CPU_COUNT(&set)) sched_setaffinity(id, sizeof(set), &set);
}

static void place_begin(place *p, const int *cpus, int count) {
  pthread_getcpuclockid(pthread_self(), &p->clock);
  keep_to(0, cpus, count, -1);
  atomic_store(&p->id, (int)syscall(SYS_gettid));
}

static int64_t processor_time(const place *p) {
  struct timespec t;
  if (clock_gettime(p->clock, &t)) return -1;
  return t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
}

/* Called by a thread that waits for another: where that one is kept off its core, it gets this
 * one's, if it may run there. Left to itself, the system's scheduler takes a tick for it. */
static int place_lend(place *p, const int *cpus, int count) {
  int64_t before = processor_time(p);
  if (before < 0 || processor_time(p) != before) return 0;
  int here = sched_getcpu(), i = 0;
  while (i < count && cpus[i] != here) ++i;
  if (i == count) return 0;
  keep_to(atomic_load(&p->id), &here, 1, -1);
  atomic_store(&p->moved, LENT);
  return 1;
}

/* Called before a thread falls asleep. */
static void place_remember(place *p) { atomic_store(&p->core, sched_getcpu()); }

/* Called by a thread before it wakes another: one that slept on this core would queue here, unless
 * some other core is idle, and that is for the system to find out too late. */
static void place_steer(place *p, const int *cpus, int count) {
  int here = sched_getcpu();
  if (atomic_load(&p->core) != here) return;
  keep_to(atomic_load(&p->id), cpus, count, here);
  atomic_store(&p->moved, STEERED);
}

/* Called by a thread that may have been moved: go where it likes, but leave a core that was lent. */
static void place_return(place *p, const int *cpus, int count) {
  int moved = atomic_load(&p->moved);
  if (moved == NOT_MOVED) return;
  atomic_store(&p->moved, NOT_MOVED);
  if (moved == LENT) keep_to(0, cpus, count, sched_getcpu());
  keep_to(0, cpus, count, -1);
}

#else

static void place_begin(place *p, const int *cpus, int count) {
  (void)p, (void)cpus, (void)count;
}

static int place_lend(place *p, const int *cpus, int count) {
  return (void)p, (void)cpus, (void)count, 0;
}

static void place_remember(place *p) { (void)p; }

static void place_steer(place *p, const int *cpus, int count) {
  (void)p, (void)cpus, (void)count;
}

static void place_return(place *p, const int *cpus, int count) {
  (void)p, (void)cpus, (void)count;
}

#endif

#endif
