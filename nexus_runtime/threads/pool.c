/* The threads of parallel kernels: a launcher to put where TVM's modules look for theirs.
 *
 * TVM deals task i to worker i. When the system keeps one worker off its core, because another
 * library's threads spin there, the call waits for the next tick of the scheduler: 4 ms. Here there
 * are more tasks than threads, and whoever runs claims the next one, the caller included: first of
 * a share of its own, then of the others'. A worker that does not run has claimed nothing, and nobody
 * waits for it.
 *
 * An arena is a crew of workers and how many threads one launch may use. A kernel does not tell
 * whose it is, so that each arena has a launcher function of its own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "crew.h"

#define EXPORT __attribute__((visibility("default")))

enum { MAX_CREWS = 16, MAX_ARENAS = 64 };

/* More would even out what kernels leave over; each costs a claim, whether it has work or not. */
#ifndef TASKS_PER_THREAD
#define TASKS_PER_THREAD 4
#endif

typedef struct {
  crew *crew;
  int threads;
} arena;

static crew crews[MAX_CREWS];
static arena arenas[MAX_ARENAS];
static int crew_count, arena_count;
static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;

static void share_out(share *shares, int count, int tasks) {
  for (int i = 0; i < count; ++i) {
    atomic_store(&shares[i].next, (int)((int64_t)tasks * i / count));
    shares[i].end = (int)((int64_t)tasks * (i + 1) / count);
  }
}

/* What kernels took when they ran last, were they run by one thread; who shares a place is forgotten. */
static struct {
  _Atomic(task_fn) run;
  _Atomic(int64_t) time;
} experience[256];

static void run_shared(job *j) {
  int place = (int)((uintptr_t)j->run / 16 % 256);
  int is_known = atomic_load(&experience[place].run) == j->run;
  j->begun = now();
  j->expected = is_known ? atomic_load(&experience[place].time) : INT64_MAX;
  /* A kernel whose sizes are open may be quick once and not the next time: then it is opened later. */
  if (j->expected >= QUICK_NS) open_job(j);
  run_tasks(j, 0);
  int64_t end = now();
  if (j->tasks_done) {
    atomic_store(&experience[place].time, (end - j->begun) * j->env.num_task / j->tasks_done);
    atomic_store(&experience[place].run, j->run);
  }
  alone_for = j->lacking > 0 || !j->is_open ? alone_for + end - j->begun : 0;
  alone_until = end;
  if (j->is_open) close_job(j);
}

static int launch(arena *a, task_fn run, void *data, int num_task) {
  /* A launch inside of a task would wait for workers that may wait for it. */
  int threads = in_task ? 1 : a->threads, outer = in_task;
  if (num_task == 0) num_task = threads == 1 ? 1 : threads * TASKS_PER_THREAD;
  share shares[threads];
  job j = {run, data, {NULL, num_task}, .share_count = threads, .shares = shares, .crew = a->crew};
  share_out(shares, threads, num_task);
  in_task = 1;
  if (threads == 1) run_tasks(&j, 0);
  else run_shared(&j);
  in_task = outer;
  if (atomic_load(&j.error)) {
    raise_error(atomic_load(&j.error)); /* takes a reference of its own */
    drop_error(atomic_load(&j.error));
  }
  return atomic_load(&j.status);
}

#define INDEX(a, b, c) (a * 16 + b * 4 + c)
#define DEFINE(a, b, c)                                                \
  static int launch_##a##b##c(task_fn run, void *data, int num_task) { \
    return launch(&arenas[INDEX(a, b, c)], run, data, num_task);       \
  }
#define NAME(a, b, c) launch_##a##b##c,
#define FOUR(do, a, b) do(a, b, 0) do(a, b, 1) do(a, b, 2) do(a, b, 3)
#define SIXTEEN(do, a) FOUR(do, a, 0) FOUR(do, a, 1) FOUR(do, a, 2) FOUR(do, a, 3)
#define ALL(do) SIXTEEN(do, 0) SIXTEEN(do, 1) SIXTEEN(do, 2) SIXTEEN(do, 3)
ALL(DEFINE)
static const launch_fn launchers[MAX_ARENAS] = {ALL(NAME)};

/* A child has none of its parent's threads. It hires its own when it launches. */
static void before_fork(void) {
  pthread_mutex_lock(&registry);
  for (int i = 0; i < crew_count; ++i) pthread_mutex_lock(&crews[i].lock);
}

static void after_fork(void) {
  for (int i = 0; i < crew_count; ++i) pthread_mutex_unlock(&crews[i].lock);
  pthread_mutex_unlock(&registry);
}

static void in_child(void) {
  for (int i = 0; i < crew_count; ++i) crew_reset(&crews[i]);
  pthread_mutex_init(&registry, NULL);
}

static crew *find_crew(const int *cpus, int cpu_count) {
  size_t bytes = cpu_count * sizeof(int);
  for (int i = 0; i < crew_count; ++i) {
    crew *c = &crews[i];
    if (c->cpu_count == cpu_count && (!bytes || !memcmp(c->cpus, cpus, bytes))) return c;
  }
  if (crew_count == MAX_CREWS) return NULL;
  if (crew_count == 0) pthread_atfork(before_fork, after_fork, in_child);
  crew *c = &crews[crew_count];
  crew_reset(c);
  c->cpu_count = cpu_count;
  if (bytes) memcpy(c->cpus, cpus, bytes);
  crew_count++;
  return c;
}

static launch_fn find_arena(int threads, const int *cpus, int cpu_count) {
  crew *c = find_crew(cpus, cpu_count);
  if (c == NULL) return NULL;
  for (int i = 0; i < arena_count; ++i) {
    if (arenas[i].crew == c && arenas[i].threads == threads) return launchers[i];
  }
  if (arena_count == MAX_ARENAS) return NULL;
  arenas[arena_count] = (arena){c, threads};
  return launchers[arena_count++];
}

/* The launcher for `threads` threads, the caller's among them, whose workers keep to `cpus` (any
 * where there are none); the same for the same arguments. NULL when a number is out of range or no
 * more arenas can be had. */
EXPORT launch_fn nexus_pool_launcher(int threads, const int *cpus, int cpu_count) {
  if (threads < 1 || threads > MAX_THREADS || cpu_count < 0 || cpu_count > MAX_CPUS) return NULL;
  for (int i = 0; i < cpu_count; ++i) {
    if (cpus[i] < 0 || cpus[i] >= MAX_CPUS) return NULL;
  }
  pthread_mutex_lock(&registry);
  launch_fn found = find_arena(threads, cpus, cpu_count);
  pthread_mutex_unlock(&registry);
  return found;
}

/* Let the loaded library at `path` launch with `launcher`. Returns 0; 1 where it has no parallel
 * kernel; 2 where one has barriers, which need a thread for every task; -1 where it is not loaded. */
EXPORT int nexus_pool_install(const char *path, launch_fn launcher) {
  void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  if (library == NULL) return -1;
  launch_fn *own = (launch_fn *)dlsym(library, "__TVMBackendParallelLaunch");
  int barriers = dlsym(library, "__TVMBackendParallelBarrier") != NULL;
  if (own && !barriers) *own = launcher;
  dlclose(library);
  return own == NULL ? 1 : barriers ? 2 : 0;
}

/* How an error is taken from the thread that raised it, raised in another, and dropped. */
EXPORT void nexus_pool_errors(void (*take)(void **), void (*raise)(void *), int (*drop)(void *)) {
  take_error = take;
  raise_error = raise;
  drop_error = drop;
}

/* How many workers there are. */
EXPORT int nexus_pool_workers(void) {
  int count = 0;
  pthread_mutex_lock(&registry);
  for (int i = 0; i < crew_count; ++i) {
    pthread_mutex_lock(&crews[i].lock);
    count += crews[i].hired;
    pthread_mutex_unlock(&crews[i].lock);
  }
  pthread_mutex_unlock(&registry);
  return count;
}

/* End all workers when they have done their tasks. Launches after this run on their callers. */
EXPORT void nexus_pool_close(void) {
  pthread_mutex_lock(&registry);
  for (int i = 0; i < crew_count; ++i) {
    crew *c = &crews[i];
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->closed, 1);
    int hired = c->hired;
    c->hired = 0;
    pthread_mutex_unlock(&c->lock);
    word_change(&c->launches);
    word_wake(&c->launches, MAX_THREADS);
    for (int w = 0; w < hired; ++w) pthread_join(c->workers[w].thread, NULL);
  }
  pthread_mutex_unlock(&registry);
}
