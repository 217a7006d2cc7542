/* Processor features: what a model was built for, and what this processor has. */

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
