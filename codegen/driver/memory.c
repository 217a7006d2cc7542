/* Memory of a model: arithmetic of sizes, working memory, borders, mapped weights. */

enum { EFFC_PAGE_NBYTES = 4096, EFFC_HUGE_NBYTES = 2 << 20 };

/* More bytes than any process can address. */
#define EFFC_TOO_MANY (INT64_C(1) << 47)

/* Arithmetic of sizes; division rounds down. */
static inline int64_t effc_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t effc_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t effc_div(int64_t a, int64_t b) {
  return a / b - (a % b && (a % b < 0) != (b < 0));
}
static inline int64_t effc_mod(int64_t a, int64_t b) { return a - effc_div(a, b) * b; }

/* The same where sizes were not checked yet: what has no room in 64 bits is noted. */
static inline int64_t effc_sum(int64_t a, int64_t b, int *is_too_large) {
  int64_t result = 0;
  *is_too_large |= __builtin_add_overflow(a, b, &result);
  return result;
}
static inline int64_t effc_times(int64_t a, int64_t b, int *is_too_large) {
  int64_t result = 0;
  *is_too_large |= __builtin_mul_overflow(a, b, &result);
  return result;
}

/* Bytes of a buffer, rounded up so that the next one is aligned. */
static inline int64_t effc_room(int64_t nbytes, int *is_too_large) {
  *is_too_large |= nbytes < 0 || nbytes >= EFFC_TOO_MANY;
  return *is_too_large ? 0 : (nbytes + EFFC_ALIGN - 1) / EFFC_ALIGN * EFFC_ALIGN;
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

/* ---- working memory ---- */

static uint8_t *effc_mapped(size_t nbytes) {
  void *found = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return found == MAP_FAILED ? NULL : found;
}

/* Pages; what is as large as huge pages lies on such, where the system has them. */
static uint8_t *effc_pages(size_t nbytes) {
  if (nbytes < EFFC_HUGE_NBYTES) return effc_mapped(nbytes);
  uint8_t *start = effc_mapped(nbytes + EFFC_HUGE_NBYTES);
  if (!start) return effc_mapped(nbytes);
  size_t before = -(uintptr_t)start % EFFC_HUGE_NBYTES;
  if (before) munmap(start, before);
  munmap(start + before + nbytes, EFFC_HUGE_NBYTES - before);
#ifdef MADV_HUGEPAGE
  madvise(start + before, nbytes, MADV_HUGEPAGE);
#endif
  return start + before;
}

static int effc_grow(uint8_t **memory, size_t *room, size_t nbytes) {
  if (nbytes <= *room) return 0;
  if (*memory) munmap(*memory, *room);
  *room = (nbytes + EFFC_PAGE_NBYTES - 1) / EFFC_PAGE_NBYTES * EFFC_PAGE_NBYTES;
  *memory = effc_pages(*room);
  if (*memory) return 0;
  *room = 0;
  return effc_fail("%scannot allocate %lld bytes of working memory", "", (long long)nbytes, 0);
}

/* ---- weights: a safetensors file, mapped; narrow integers and weights without zeros are unpacked ---- */

/* FNV-1a (Fowler, Noll, Vo), 64 bits. */
static uint64_t effc_hash(const uint8_t *bytes, uint64_t count) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (uint64_t i = 0; i < count; i++) hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  return hash;
}

/* Elements of 1 to 7 bits, the first one in the lowest bits, as bytes around zero. */
static void effc_widen(const uint8_t *from, uint8_t *to, uint64_t count, int bits) {
  const uint64_t mask = (1u << bits) - 1;
  const int middle = 1 << (bits - 1);
  for (uint64_t first = 0; first < count; first += 8, from += bits) {
    const uint64_t together = count - first < 8 ? count - first : 8;
    uint64_t word = 0;
    memcpy(&word, from, (together * bits + 7) / 8);
    for (uint64_t i = 0; i < together; i++)
      to[first + i] = (uint8_t)((int)(word >> (i * bits) & mask) - middle);
  }
}

/* Elements to where their bits are set, zeros between them. They lie at the end of the memory they
 * are moved in, so none is written over before it is read. */
static inline void effc_spread(const uint8_t *mask, uint8_t *to, uint64_t count,
                               const uint8_t *from, size_t itemsize) {
  for (uint64_t i = 0; i < count; i++, to += itemsize) {
    if (mask[i / 8] >> i % 8 & 1) {
      uint32_t element;
      memcpy(&element, from, itemsize);
      memcpy(to, &element, itemsize);
      from += itemsize;
    } else {
      memset(to, 0, itemsize);
    }
  }
}

static void effc_unpack_one(const effc_packed *one, const uint8_t *from, uint8_t *to) {
  const int has_mask = one->nonzero < one->count;
  const uint8_t *values = from + (has_mask ? (one->count + 7) / 8 : 0);
  uint8_t *end = to + (one->count - one->nonzero) * one->itemsize;
  if (one->bits) effc_widen(values, end, one->nonzero, one->bits);
  else memcpy(end, values, one->nonzero * one->itemsize);
  if (!has_mask) return;
  if (one->itemsize == 1) effc_spread(from, to, one->count, end, 1);
  else if (one->itemsize == 2) effc_spread(from, to, one->count, end, 2);
  else effc_spread(from, to, one->count, end, 4);
}

static int effc_unpack(struct effc_model *m) {
  if (effc_grow(&m->unpacked, &m->unpacked_room, EFFC_UNPACKED_NBYTES)) return 1;
  for (int i = 0; i < EFFC_UNPACKED; i++) {
    const effc_packed *one = effc_packed_weight(i);
    effc_unpack_one(one, m->weights + one->offset, m->unpacked + one->place);
  }
  return 0;
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
  return effc_unpack(m);
}
