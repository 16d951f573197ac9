/* Workers that share a set of cores, and the jobs that they help with.
 *
 * A job lives on the stack of its caller. Workers enter it under the crew's lock; its caller takes
 * it off the list, and returns when nobody is inside any more.
 */
#ifndef NEXUS_CREW_H
#define NEXUS_CREW_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

#include "place.h"
#include "word.h"

enum { MAX_THREADS = 256, MAX_CPUS = 1024 };

/* So often a caller looks after a worker that it waits for, before it sleeps until that is done. */
enum { MOST_LOOKS = 20 };

/* Waking a worker takes its caller 7 us on a virtual machine of 2026, and pays for itself with half of
 * what is left to do. Awake ones cost 0.4 us. */
#ifndef WAKE_AFTER_NS
#define WAKE_AFTER_NS 20000
#endif

/* What a caller does alone in less than this takes two threads longer: what one core wrote comes slowly
 * to another's cache. */
#ifndef QUICK_NS
#define QUICK_NS 5000
#endif

static const size_t STACK_BYTES = 8 << 20; /* as the main thread's: kernels keep tiles there */

/* The interface that TVM's generated code calls (tvm/runtime/c_backend_api.h). */
typedef struct {
  void *sync_handle;
  int32_t num_task;
} group_env;
typedef int (*task_fn)(int task, group_env *env, void *data);
typedef int (*launch_fn)(task_fn run, void *data, int num_task);

/* Tasks that one thread begins with. Each has its own, and always the same, so that it finds in its
 * cache what it wrote in the kernel before; who is done takes from the others'. */
typedef struct {
  OWN_LINE atomic_int next;
  int end;
} share;

typedef struct job {
  task_fn run;
  void *data;
  group_env env;
  int share_count;
  share *shares;
  struct crew *crew;
  /* The caller's alone: */
  int64_t begun;
  int64_t expected; /* how long it takes one thread */
  int tasks_done;
  int is_open;     /* whether workers may know of it */
  int lacking;     /* workers to wake, */
  int64_t wake_at; /* but not before */
  /* Everybody's: */
  int room;         /* workers that may still enter; under the crew's lock */
  struct job *next; /* under the crew's lock */
  OWN_LINE atomic_uint inside;
  atomic_int status;
  _Atomic(void *) error;
} job;

typedef struct worker {
  struct crew *crew;
  pthread_t thread;
  place place;
  _Atomic(job *) job; /* that it is inside of */
  atomic_int is_asleep;
} worker;

typedef struct crew {
  pthread_mutex_t lock;
  _Atomic(job *) jobs; /* the oldest first; written under the lock */
  atomic_int closed;
  atomic_int hired; /* written under the lock */
  int limit;
  worker workers[MAX_THREADS];
  int cpu_count;
  int cpus[MAX_CPUS];
  word launches;
  word returns;
} crew;

static _Thread_local int in_task;
static _Thread_local int64_t alone_until, alone_for; /* a caller that left workers asleep */

/* Errors of tvm_ffi live in the thread that raised them, and have to reach the caller's. */
static void (*take_error)(void **error);
static void (*raise_error)(void *error);
static int (*drop_error)(void *error);

static void fail(job *j, int status) {
  void *error = NULL, *none = NULL;
  if (take_error) take_error(&error);
  atomic_store(&j->status, status);
  for (int i = 0; i < j->share_count; ++i) {
    atomic_store(&j->shares[i].next, j->shares[i].end); /* nobody needs the rest */
  }
  if (error && !atomic_compare_exchange_strong(&j->error, &none, error)) drop_error(error);
}

static void look_around(job *j);

static void run_share(job *j, share *own, int is_caller) {
  while (atomic_load(&own->next) < own->end) {
    int task = atomic_fetch_add(&own->next, 1);
    if (task >= own->end) return;
    int status = j->run(task, &j->env, j->data);
    if (status != 0) fail(j, status);
    if (is_caller) look_around(j);
  }
}

/* Run what is left to claim, beginning with the share of the thread number `first`; 0 is the caller. */
static void run_tasks(job *j, int first) {
  for (int i = 0; i < j->share_count; ++i) {
    run_share(j, &j->shares[(first + i) % j->share_count], first == 0);
  }
}

static job *enter(crew *c, worker *self) {
  if (atomic_load(&c->jobs) == NULL) return NULL;
  pthread_mutex_lock(&c->lock);
  job *j = atomic_load(&c->jobs);
  while (j && j->room == 0) j = j->next;
  if (j) {
    j->room--;
    atomic_fetch_add(&j->inside, 1);
    atomic_store(&self->job, j);
  }
  pthread_mutex_unlock(&c->lock);
  return j;
}

static void leave(crew *c, worker *self, job *j) {
  atomic_store(&self->job, NULL);
  /* The last touch of the job: when nobody is inside, its caller may return. */
  if (atomic_fetch_sub(&j->inside, 1) == 1 && atomic_load(&c->returns.sleepers)) {
    word_change(&c->returns);
    word_wake(&c->returns, MAX_THREADS);
  }
}

static void *work(void *argument) {
  worker *self = argument;
  crew *c = self->crew;
  in_task = 1;
  place_begin(&self->place, c->cpus, c->cpu_count);
  while (!atomic_load(&c->closed)) {
    place_return(&self->place, c->cpus, c->cpu_count);
    unsigned seen = atomic_load(&c->launches.value);
    job *j = enter(c, self);
    if (j) {
      run_tasks(j, 1 + (int)(self - c->workers));
      leave(c, self, j);
    } else if (!spin(&c->launches.value, seen, 0)) {
      place_remember(&self->place);
      atomic_store(&self->is_asleep, 1);
      atomic_fetch_add(&c->launches.sleepers, 1);
      if (!atomic_load(&c->closed)) word_wait(&c->launches, seen);
      atomic_fetch_sub(&c->launches.sleepers, 1);
      atomic_store(&self->is_asleep, 0);
    }
  }
  return NULL;
}

/* Whether a worker of the job was kept off its core, and got this thread's. */
static int lend_core(crew *c, job *j) {
  for (int i = 0; i < atomic_load(&c->hired); ++i) {
    worker *w = &c->workers[i];
    if (atomic_load(&w->job) == j && place_lend(&w->place, c->cpus, c->cpu_count)) return 1;
  }
  return 0;
}

static void wait_for_workers(crew *c, job *j) {
  for (int turn = 0; !spin(&j->inside, 0, 1); ++turn) {
    if (!lend_core(c, j) && turn < MOST_LOOKS) continue;
    atomic_fetch_add(&c->returns.sleepers, 1);
    unsigned seen = atomic_load(&c->returns.value);
    if (atomic_load(&j->inside)) word_wait(&c->returns, seen);
    atomic_fetch_sub(&c->returns.sleepers, 1);
  }
}

/* Under the lock: as many workers as one launch may use, or as many as the system grants. */
static void hire(crew *c, int wanted) {
  pthread_attr_t attributes;
  sigset_t all, before;
  if (wanted > c->limit) wanted = c->limit;
  if (c->hired >= wanted || atomic_load(&c->closed)) return;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  /* Signals are for the threads of the program. */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (c->hired < wanted) {
    worker *w = &c->workers[c->hired];
    w->crew = c;
    atomic_store(&w->job, NULL);
    atomic_store(&w->is_asleep, 0);
    atomic_store(&w->place.moved, NOT_MOVED);
    if (pthread_create(&w->thread, &attributes, work, w) != 0) break;
    c->hired++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (c->hired < wanted) c->limit = c->hired;
}

static void wake(job *j) {
  crew *c = j->crew;
  for (int i = 0; i < atomic_load(&c->hired); ++i) {
    worker *w = &c->workers[i];
    if (atomic_load(&w->is_asleep)) place_steer(&w->place, c->cpus, c->cpu_count);
  }
  word_wake(&j->crew->launches, j->lacking);
  j->lacking = 0;
}

/* Waking costs a caller as much as a small kernel. It does so at once for a large one, else when it
 * has worked alone for as long as that would have paid: in this kernel, or in those just before. */
static void decide_when_to_wake(job *j) {
  int asleep = (int)atomic_load(&j->crew->launches.sleepers);
  j->lacking = j->share_count - 1 - (atomic_load(&j->crew->hired) - asleep);
  if (j->lacking <= 0) return;
  if (j->begun - alone_until > SPIN_NS) alone_for = 0;
  j->wake_at = j->begun + WAKE_AFTER_NS - alone_for;
  if (j->expected >= WAKE_AFTER_NS || j->wake_at <= j->begun) wake(j);
}

/* Let workers in. */
static void open_job(job *j) {
  crew *c = j->crew;
  j->is_open = 1;
  j->room = j->share_count - 1;
  pthread_mutex_lock(&c->lock);
  hire(c, j->share_count - 1);
  job *last = atomic_load(&c->jobs);
  while (last && last->next) last = last->next;
  if (last) last->next = j;
  else atomic_store(&c->jobs, j);
  pthread_mutex_unlock(&c->lock);
  word_change(&c->launches);
  decide_when_to_wake(j);
}

/* What a caller does between two tasks. */
static void look_around(job *j) {
  j->tasks_done++;
  if (!j->is_open && j->share_count > 1) {
    if (now() - j->begun > QUICK_NS) open_job(j);
  } else if (j->lacking > 0 && now() >= j->wake_at) {
    wake(j);
  }
}

/* Let no more workers in, and wait until those inside have left. */
static void close_job(job *j) {
  crew *c = j->crew;
  pthread_mutex_lock(&c->lock);
  job *before = atomic_load(&c->jobs);
  if (before == j) {
    atomic_store(&c->jobs, j->next);
  } else {
    while (before->next != j) before = before->next;
    before->next = j->next;
  }
  pthread_mutex_unlock(&c->lock);
  wait_for_workers(c, j);
}

static void crew_reset(crew *c) {
  pthread_mutex_init(&c->lock, NULL);
  atomic_store(&c->jobs, NULL);
  c->hired = 0;
  c->limit = MAX_THREADS;
  word_init(&c->launches);
  word_init(&c->returns);
}

#endif
