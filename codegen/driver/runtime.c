/* The part of the driver that is the same for every model: threads, memory, weights, checks.
 * The generated model.c defines the tables and functions declared below and includes this file. */
#define _GNU_SOURCE
#include "effc.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
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

enum { EFFC_ALIGN = 64, EFFC_SPINS = 4000, EFFC_IDLE_SPINS = 20000, EFFC_MAX_THREADS = 256 };

typedef struct effc_worker {
  struct effc_model *model;
  int number;
} effc_worker;

struct effc_model {
  int threads;
  int64_t sizes[EFFC_SYMBOLS + 1];
  int64_t slots[EFFC_SLOTS + 1];
  int is_bound;
  uint8_t *arena, *scratch;
  size_t arena_nbytes, arena_room, scratch_nbytes, scratch_room;
  const uint8_t *weights;
  void *mapping;
  size_t mapping_nbytes;
  const void *const *inputs;
  void *const *outputs;
  double *seconds;
  double stamp;
  pthread_mutex_t lock, sleep;
  pthread_cond_t wake;
  int sleepers;
  _Alignas(64) atomic_uint generation; /* these two wrap after hours of runs */
  _Alignas(64) atomic_uint phase;
  _Alignas(64) atomic_int arrived;
  atomic_int stopping;
  pthread_t handles[EFFC_MAX_THREADS];
  effc_worker workers[EFFC_MAX_THREADS];
};

/* Defined by the generated code. */
static void effc_steps(struct effc_model *m, int thread, int threads);
static void effc_slots(const int64_t *sizes, int64_t *slots, size_t *arena, size_t *scratch);
static const char *effc_missing_feature(void);

static _Thread_local char effc_text[512];

const char *effc_message(void) { return effc_text; }

static int effc_fail(const char *format, const char *a, long long b, long long c) {
  snprintf(effc_text, sizeof effc_text, format, a, b, c);
  return 1;
}

static inline void effc_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  __asm__ volatile("" ::: "memory");
#endif
}

static double effc_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- threads: all run the whole program and meet at barriers ---- */

static void effc_barrier(struct effc_model *m, int threads) {
  if (threads == 1) return;
  unsigned phase = atomic_load_explicit(&m->phase, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&m->arrived, 1, memory_order_acq_rel) == threads - 1) {
    atomic_store_explicit(&m->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&m->phase, phase + 1, memory_order_release);
    return;
  }
  for (int spins = 0; atomic_load_explicit(&m->phase, memory_order_acquire) == phase; spins++) {
    if (spins < EFFC_SPINS) effc_pause();
    else sched_yield();
  }
}

/* Ends a step: with profiling every step is timed, else threads meet only where they must. */
static inline void effc_end(struct effc_model *m, int thread, int threads, int step, int meet) {
  if (m->seconds) {
    effc_barrier(m, threads);
    if (thread == 0) {
      double now = effc_now();
      m->seconds[step] = now - m->stamp;
      m->stamp = now;
    }
    effc_barrier(m, threads);
  } else if (meet) {
    effc_barrier(m, threads);
  }
}

/* Arithmetic of sizes; division rounds down. */
static inline int64_t effc_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t effc_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t effc_div(int64_t a, int64_t b) {
  return a / b - (a % b && (a % b < 0) != (b < 0));
}
static inline int64_t effc_mod(int64_t a, int64_t b) { return a - effc_div(a, b) * b; }

static inline int64_t effc_share(int64_t tasks, int thread, int threads) {
  return tasks * thread / threads;
}

/* Fill the border of a channels-last map: `fill` holds the byte per image (stride 0 or 1). */
static inline void effc_border(uint8_t *map, int64_t images, int64_t height, int64_t width,
                               int64_t rows, int64_t columns, int64_t pixel_nbytes,
                               const int32_t *fill, int64_t fill_stride) {
  int64_t line = width * pixel_nbytes, side = columns * pixel_nbytes;
  for (int64_t image = 0; image < images; image++, map += height * line) {
    int value = fill ? fill[image * fill_stride] : 0;
    memset(map, value, rows * line);
    memset(map + (height - rows) * line, value, rows * line);
    if (!side) continue;
    for (int64_t row = rows; row < height - rows; row++) {
      memset(map + row * line, value, side);
      memset(map + (row + 1) * line - side, value, side);
    }
  }
}

static unsigned effc_flush_denormals(void) {
#if defined(__x86_64__)
  unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040); /* flush to zero, denormals are zero */
  return before;
#else
  return 0;
#endif
}

static void effc_restore_denormals(unsigned before) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(before);
#else
  (void)before;
#endif
}

static unsigned effc_await(struct effc_model *m, unsigned seen) {
  for (int spins = 0; spins < EFFC_IDLE_SPINS; spins++) {
    if (atomic_load_explicit(&m->generation, memory_order_acquire) != seen) return seen + 1;
    effc_pause();
  }
  pthread_mutex_lock(&m->sleep);
  m->sleepers++;
  while (atomic_load_explicit(&m->generation, memory_order_acquire) == seen)
    pthread_cond_wait(&m->wake, &m->sleep);
  m->sleepers--;
  pthread_mutex_unlock(&m->sleep);
  return seen + 1;
}

static void *effc_work(void *argument) {
  effc_worker *self = argument;
  struct effc_model *m = self->model;
  effc_flush_denormals();
  for (unsigned seen = 0;;) {
    seen = effc_await(m, seen);
    if (atomic_load_explicit(&m->stopping, memory_order_acquire)) return NULL;
    effc_steps(m, self->number, m->threads);
    effc_barrier(m, m->threads);
  }
}

static void effc_release(struct effc_model *m) {
  atomic_fetch_add_explicit(&m->generation, 1, memory_order_acq_rel);
  pthread_mutex_lock(&m->sleep);
  if (m->sleepers) pthread_cond_broadcast(&m->wake);
  pthread_mutex_unlock(&m->sleep);
}

static void effc_stop_threads(struct effc_model *m, int count) {
  atomic_store_explicit(&m->stopping, 1, memory_order_release);
  effc_release(m);
  for (int i = 1; i < count; i++) pthread_join(m->handles[i], NULL);
}

static int effc_start_threads(struct effc_model *m) {
  for (int i = 1; i < m->threads; i++) {
    m->workers[i] = (effc_worker){m, i};
    if (pthread_create(&m->handles[i], NULL, effc_work, &m->workers[i])) {
      effc_stop_threads(m, i);
      return effc_fail("%scannot start thread %lld of %lld", "", i, m->threads);
    }
  }
  return 0;
}

/* ---- weights: a safetensors file, mapped ---- */

/* FNV-1a (Fowler, Noll, Vo), 64 bits. */
static uint64_t effc_hash(const uint8_t *bytes, uint64_t count) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (uint64_t i = 0; i < count; i++) hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static int effc_map(struct effc_model *m, const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info)) {
    if (file >= 0) close(file);
    snprintf(effc_text, sizeof effc_text, "cannot open %s: %s", path, strerror(errno));
    return 1;
  }
  m->mapping_nbytes = (size_t)info.st_size;
  if (m->mapping_nbytes >= 8)
    m->mapping = mmap(NULL, m->mapping_nbytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  close(file);
  if (m->mapping == MAP_FAILED || !m->mapping) {
    m->mapping = NULL;
    return effc_fail("cannot map %s (%lld bytes)", path, (long long)info.st_size, 0);
  }
  const uint8_t *content = m->mapping;
  uint64_t header;
  memcpy(&header, content, 8);
  if (header != EFFC_HEADER_NBYTES || m->mapping_nbytes != 8 + header + EFFC_WEIGHT_NBYTES)
    return effc_fail("%s is damaged or belongs to another model: %lld bytes, %lld expected", path,
                     (long long)m->mapping_nbytes,
                     (long long)(8 + EFFC_HEADER_NBYTES + EFFC_WEIGHT_NBYTES));
  if (effc_hash(content + 8, header) != EFFC_HEADER_HASH)
    return effc_fail("%s is damaged or belongs to another model: it lists other weights", path, 0, 0);
  m->weights = content + 8 + header;
  return 0;
}

/* ---- opening, running, closing ---- */

void effc_close(effc_model *m) {
  if (!m) return;
  effc_stop_threads(m, m->threads);
  if (m->mapping) munmap(m->mapping, m->mapping_nbytes);
  free(m->arena);
  free(m->scratch);
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
  if (threads <= 0) threads = EFFC_THREADS;
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

static int effc_grow(uint8_t **memory, size_t *room, size_t nbytes) {
  if (nbytes <= *room) return 0;
  free(*memory);
  *room = (nbytes + 4095) / 4096 * 4096;
  *memory = aligned_alloc(4096, *room);
  if (*memory) return 0;
  *room = 0;
  return effc_fail("%scannot allocate %lld bytes of working memory", "", (long long)nbytes, 0);
}

static int effc_bind(struct effc_model *m, const int64_t *symbols) {
  for (int i = 0; i < EFFC_SYMBOLS; i++) {
    const effc_symbol *s = effc_symbol_info(i);
    if (!symbols) return effc_fail("no value given for %s", s->name, 0, 0);
    if (symbols[i] < s->minimum)
      return effc_fail("%s is %lld, at least %lld expected", s->name, symbols[i], s->minimum);
    if (symbols[i] > s->maximum)
      return effc_fail("%s is %lld, at most %lld expected", s->name, symbols[i], s->maximum);
    m->is_bound &= m->sizes[i] == symbols[i];
    m->sizes[i] = symbols[i];
  }
  if (m->is_bound) return 0;
  size_t scratch = 0;
  effc_slots(m->sizes, m->slots, &m->arena_nbytes, &scratch);
  m->scratch_nbytes = (scratch + 4095) / 4096 * 4096;
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
    unsigned before = effc_flush_denormals();
    m->inputs = inputs;
    m->outputs = outputs;
    m->seconds = seconds;
    m->stamp = effc_now();
    if (m->threads > 1) effc_release(m);
    effc_steps(m, 0, m->threads);
    effc_barrier(m, m->threads);
    effc_restore_denormals(before);
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
  size_t nbytes = m->arena_nbytes + m->scratch_nbytes * m->threads;
  pthread_mutex_unlock(&m->lock);
  return nbytes;
}

int effc_abi_version(void) { return EFFC_ABI_VERSION; }

/* ---- processor features ---- */

#if defined(__x86_64__)
typedef struct {
  const char *name;
  int leaf, reg, bit;
} effc_feature;

static const effc_feature effc_features[] = {
    {"fma", 1, 2, 12},        {"movbe", 1, 2, 22},      {"popcnt", 1, 2, 23},
    {"sse4.2", 1, 2, 20},     {"avx", 1, 2, 28},        {"f16c", 1, 2, 29},
    {"bmi", 7, 1, 3},         {"avx2", 7, 1, 5},        {"bmi2", 7, 1, 8},
    {"avx512f", 7, 1, 16},    {"avx512dq", 7, 1, 17},   {"avx512cd", 7, 1, 28},
    {"avx512bw", 7, 1, 30},   {"avx512vl", 7, 1, 31},   {"avx512vnni", 7, 2, 11},
    {"avx512bf16", 71, 0, 5}, {"lzcnt", 0x80, 2, 5},
};

static int effc_has(const char *name) {
  for (size_t i = 0; i < sizeof effc_features / sizeof *effc_features; i++) {
    const effc_feature *f = &effc_features[i];
    if (strcmp(f->name, name)) continue;
    unsigned r[4] = {0};
    unsigned leaf = f->leaf == 0x80 ? 0x80000001u : f->leaf == 71 ? 7u : (unsigned)f->leaf;
    if (!__get_cpuid_count(leaf, f->leaf == 71, &r[0], &r[1], &r[2], &r[3])) return 0;
    return (r[f->reg] >> f->bit) & 1;
  }
  return 0;
}

/* Whether the operating system saves the vector registers (AVX: bits 1-2, AVX-512: 5-7 too). */
static int effc_saves(unsigned bits) {
  unsigned r[4] = {0}, low, high;
  if (!__get_cpuid(1, &r[0], &r[1], &r[2], &r[3]) || !((r[2] >> 27) & 1)) return 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & bits) == bits;
}
#endif

static const char *effc_first_missing(const char *const *names) {
#if defined(__x86_64__)
  for (; *names; names++) {
    unsigned bits = strncmp(*names, "avx512", 6) ? (strncmp(*names, "avx", 3) ? 0 : 0x6) : 0xe6;
    if (!effc_has(*names) || (bits && !effc_saves(bits))) return *names;
  }
#else
  (void)names;
#endif
  return NULL;
}
