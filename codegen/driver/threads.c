/* Threads of a model: all run the whole program and meet at barriers. Who waits spins, then lets
 * others run, then sleeps. */

enum {
  EFFC_SPIN_NANOSECONDS = 4000,    /* longer than threads with equal work are apart */
  EFFC_WAIT_NANOSECONDS = 1000000, /* longer than a host takes from one run to the next */
  EFFC_PAUSES = 16
};

static inline void effc_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  __asm__ volatile("" ::: "memory");
#endif
}

static int64_t effc_nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Processors this process may use. */
static int effc_processors(void) {
  cpu_set_t set;
  if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (int)count : 1;
}

/* Whether a word changed before patience ended. */
static int effc_spin(const struct effc_model *m, atomic_uint *word, unsigned seen) {
  for (int64_t start = 0;;) {
    for (int i = 0; i < EFFC_PAUSES; i++) {
      if (atomic_load_explicit(word, memory_order_acquire) != seen) return 1;
      effc_pause();
    }
    int64_t now = effc_nanoseconds();
    if (!start) start = now;
    if (now - start > EFFC_WAIT_NANOSECONDS) return 0;
    if (m->is_crowded || now - start > EFFC_SPIN_NANOSECONDS) sched_yield();
  }
}

/* Wait until a word is no longer what it was. */
static void effc_wait(struct effc_model *m, atomic_uint *word, unsigned seen) {
  if (effc_spin(m, word, seen)) return;
  pthread_mutex_lock(&m->sleep);
  atomic_fetch_add(&m->sleepers, 1);
  while (atomic_load(word) == seen) pthread_cond_wait(&m->wake, &m->sleep);
  atomic_fetch_sub(&m->sleepers, 1);
  pthread_mutex_unlock(&m->sleep);
}

/* Change a word others wait for. Accesses are sequentially consistent: either the sleeper sees the
 * change before it sleeps, or it is seen here. */
static void effc_advance(struct effc_model *m, atomic_uint *word) {
  atomic_fetch_add(word, 1);
  if (!atomic_load(&m->sleepers)) return;
  pthread_mutex_lock(&m->sleep);
  pthread_cond_broadcast(&m->wake);
  pthread_mutex_unlock(&m->sleep);
}

static void effc_barrier(struct effc_model *m, int threads) {
  if (threads == 1) return;
  unsigned phase = atomic_load_explicit(&m->phase, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&m->arrived, 1, memory_order_acq_rel) == threads - 1) {
    atomic_store_explicit(&m->arrived, 0, memory_order_relaxed);
    effc_advance(m, &m->phase);
  } else {
    effc_wait(m, &m->phase, phase);
  }
}

/* Ends a step: with profiling every step is timed, else threads meet only where they must. */
static inline void effc_end(struct effc_model *m, int thread, int threads, int step, int meet) {
  if (m->seconds) {
    effc_barrier(m, threads);
    if (thread == 0) {
      int64_t now = effc_nanoseconds();
      m->seconds[step] = 1e-9 * (double)(now - m->stamp);
      m->stamp = now;
    }
    effc_barrier(m, threads);
  } else if (meet) {
    effc_barrier(m, threads);
  }
}

/* The part of some tasks a thread does. */
static inline int64_t effc_share(int64_t tasks, int thread, int threads) {
  return tasks * thread / threads;
}

/* Kernels round to nearest, take denormals for zero and never trap, whatever the host does. */
static unsigned effc_set_arithmetic(void) {
#if defined(__x86_64__)
  unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(0x9fc0);
  return before;
#else
  return 0;
#endif
}

static void effc_restore_arithmetic(unsigned before) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(before);
#else
  (void)before;
#endif
}

static void *effc_work(void *argument) {
  effc_worker *self = argument;
  struct effc_model *m = self->model;
  effc_set_arithmetic();
  for (unsigned seen = 0;; seen++) {
    effc_wait(m, &m->generation, seen);
    if (atomic_load_explicit(&m->is_stopping, memory_order_acquire)) return NULL;
    effc_steps(m, self->number, m->threads);
    effc_barrier(m, m->threads);
  }
}

static void effc_stop_threads(struct effc_model *m, int count) {
  atomic_store_explicit(&m->is_stopping, 1, memory_order_release);
  effc_advance(m, &m->generation);
  for (int i = 1; i < count; i++) pthread_join(m->handles[i], NULL);
}

/* Start the threads; signals are left to those of the host. */
static int effc_start_threads(struct effc_model *m) {
  sigset_t all, before;
  int started = 1;
  m->is_crowded = m->threads > effc_processors();
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (; started < m->threads; started++) {
    m->workers[started] = (effc_worker){m, started};
    if (pthread_create(&m->handles[started], NULL, effc_work, &m->workers[started])) break;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (started == m->threads) return 0;
  effc_stop_threads(m, started);
  return effc_fail("%scannot start thread %lld of %lld", "", started, m->threads);
}
