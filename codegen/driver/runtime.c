/* The part of the driver that is the same for every model. The generated model.c defines the tables
 * and functions declared below and includes this file. */
#define _GNU_SOURCE
#include "effc.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { EFFC_ALIGN = 64, EFFC_MAX_THREADS = 256 };

/* A weight that is unpacked on loading: where it lies in the file, where it goes, its elements, how
 * many of them are stored (fewer than all: behind a bit for each), bytes of one, bits of a stored one
 * (0: as it is). */
typedef struct effc_packed {
  uint64_t offset, place, count, nonzero;
  int itemsize, bits;
} effc_packed;

typedef struct effc_worker {
  struct effc_model *model;
  int number;
} effc_worker;

struct effc_model {
  int threads;
  int is_crowded; /* more threads than processors: waiting must not take the time of others */
  int64_t sizes[EFFC_SYMBOLS + 1];
  int64_t slots[EFFC_SLOTS + 1];
  int is_bound;
  uint8_t *arena, *scratch;
  size_t arena_nbytes, arena_room, scratch_nbytes, scratch_room;
  const uint8_t *weights;
  uint8_t *unpacked;
  size_t unpacked_room;
  void *mapping;
  size_t mapping_nbytes;
  const void *const *inputs;
  void *const *outputs;
  double *seconds;
  int64_t stamp;
  pthread_mutex_t lock, sleep;
  pthread_cond_t wake;
  atomic_int sleepers;
  _Alignas(64) atomic_uint generation; /* these two wrap after hours of runs */
  _Alignas(64) atomic_uint phase;
  _Alignas(64) atomic_int arrived;
  atomic_int is_stopping;
  pthread_t handles[EFFC_MAX_THREADS];
  effc_worker workers[EFFC_MAX_THREADS];
};

/* Defined by the generated code. */
static void effc_steps(struct effc_model *m, int thread, int threads);
static int effc_slots(const int64_t *sizes, int64_t *slots, size_t *arena, size_t *scratch);
static const char *effc_missing_feature(void);
static const effc_packed *effc_packed_weight(int i);

static _Thread_local char effc_text[512];

const char *effc_message(void) { return effc_text; }

static int effc_fail(const char *format, const char *a, long long b, long long c) {
  snprintf(effc_text, sizeof effc_text, format, a, b, c);
  return 1;
}

static int effc_too_large(void) {
  return effc_fail("%stensors of these sizes fit in no memory", "", 0, 0);
}

/* Whether symbols are within their ranges. */
static int effc_check(const int64_t *symbols) {
  for (int i = 0; i < EFFC_SYMBOLS; i++) {
    const effc_symbol *s = effc_symbol_info(i);
    if (!symbols) return effc_fail("no value given for %s", s->name, 0, 0);
    if (symbols[i] < s->minimum)
      return effc_fail("%s is %lld, at least %lld expected", s->name, symbols[i], s->minimum);
    if (symbols[i] > s->maximum)
      return effc_fail("%s is %lld, at most %lld expected", s->name, symbols[i], s->maximum);
  }
  return 0;
}

#include "features.c"
#include "memory.c"
#include "threads.c"

int effc_abi_version(void) { return EFFC_ABI_VERSION; }

void effc_close(effc_model *m) {
  if (!m) return;
  effc_stop_threads(m, m->threads);
  if (m->mapping) munmap(m->mapping, m->mapping_nbytes);
  if (m->unpacked) munmap(m->unpacked, m->unpacked_room);
  if (m->arena) munmap(m->arena, m->arena_room);
  if (m->scratch) munmap(m->scratch, m->scratch_room);
  pthread_mutex_destroy(&m->lock);
  pthread_mutex_destroy(&m->sleep);
  pthread_cond_destroy(&m->wake);
  free(m);
}

int effc_open(const char *weights, int threads, effc_model **model) {
  if (!model) return effc_fail("%sno place for the model given", "", 0, 0);
  *model = NULL;
  if (!weights) return effc_fail("%sno weights file given", "", 0, 0);
  const char *missing = effc_missing_feature();
  if (missing)
    return effc_fail("the model was built for a processor with %s, which this one lacks", missing, 0, 0);
  if (threads <= 0) threads = (int)effc_min(EFFC_THREADS, effc_processors());
  if (threads > EFFC_MAX_THREADS)
    return effc_fail("%sat most %lld threads, not %lld", "", EFFC_MAX_THREADS, threads);
  struct effc_model *m = aligned_alloc(64, (sizeof *m + 63) / 64 * 64);
  if (!m) return effc_fail("%sout of memory", "", 0, 0);
  memset(m, 0, sizeof *m);
  pthread_mutex_init(&m->lock, NULL);
  pthread_mutex_init(&m->sleep, NULL);
  pthread_cond_init(&m->wake, NULL);
  m->threads = 1;
  if (effc_map(m, weights)) {
    effc_close(m);
    return 1;
  }
  m->threads = threads;
  if (effc_start_threads(m)) {
    m->threads = 1;
    effc_close(m);
    return 1;
  }
  *model = m;
  return 0;
}

static int effc_bind(struct effc_model *m, const int64_t *symbols) {
  if (effc_check(symbols)) return 1;
  for (int i = 0; i < EFFC_SYMBOLS; i++) {
    m->is_bound &= m->sizes[i] == symbols[i];
    m->sizes[i] = symbols[i];
  }
  if (m->is_bound) return 0;
  size_t scratch = 0;
  if (effc_slots(m->sizes, m->slots, &m->arena_nbytes, &scratch))
    return effc_too_large();
  m->scratch_nbytes = (scratch + EFFC_PAGE_NBYTES - 1) / EFFC_PAGE_NBYTES * EFFC_PAGE_NBYTES;
  if (effc_grow(&m->arena, &m->arena_room, m->arena_nbytes + EFFC_ALIGN)) return 1;
  if (effc_grow(&m->scratch, &m->scratch_room, m->scratch_nbytes * m->threads + EFFC_ALIGN))
    return 1;
  m->is_bound = 1;
  return 0;
}

int effc_run_profiled(effc_model *m, const int64_t *symbols, const void *const *inputs,
                      void *const *outputs, double *seconds) {
  if (!m || !inputs || !outputs) return effc_fail("%sno model, inputs or outputs given", "", 0, 0);
  pthread_mutex_lock(&m->lock);
  int failed = effc_bind(m, symbols);
  if (!failed) {
    unsigned before = effc_set_arithmetic();
    m->inputs = inputs;
    m->outputs = outputs;
    m->seconds = seconds;
    m->stamp = effc_nanoseconds();
    if (m->threads > 1) effc_advance(m, &m->generation);
    effc_steps(m, 0, m->threads);
    effc_barrier(m, m->threads);
    effc_restore_arithmetic(before);
  }
  pthread_mutex_unlock(&m->lock);
  return failed;
}

int effc_run(effc_model *m, const int64_t *symbols, const void *const *inputs,
             void *const *outputs) {
  return effc_run_profiled(m, symbols, inputs, outputs, NULL);
}

size_t effc_memory(effc_model *m) {
  if (!m) return 0;
  pthread_mutex_lock(&m->lock);
  size_t nbytes = m->arena_nbytes + m->scratch_nbytes * m->threads + EFFC_UNPACKED_NBYTES;
  pthread_mutex_unlock(&m->lock);
  return nbytes;
}
