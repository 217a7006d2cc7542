/* Runs a model once, with pages nobody may touch around every buffer, and writes its outputs. The
 * test lays the buffers out so that they end, or begin, where such a page does. */
#include "model.c"

#include "guards.h"

static void protect(const uint8_t *start, const int64_t *pages) {
  for (; *pages >= 0; pages++)
    if (mprotect((void *)(start + *pages), EFFC_PAGE_NBYTES, PROT_NONE)) abort();
}

static uint8_t *guarded(size_t nbytes) {
  size_t room = (nbytes + EFFC_PAGE_NBYTES - 1) / EFFC_PAGE_NBYTES * EFFC_PAGE_NBYTES;
  uint8_t *start = effc_mapped(room + 2 * EFFC_PAGE_NBYTES) + EFFC_PAGE_NBYTES;
  const int64_t pages[] = {-EFFC_PAGE_NBYTES, (int64_t)room, -1};
  if (mprotect(start + pages[0], EFFC_PAGE_NBYTES, PROT_NONE)) abort();
  protect(start, pages + 1);
  return AT_END ? start + room - nbytes : start;
}

static size_t nbytes_of(const effc_tensor *tensor) {
  size_t count = strstr(tensor->dtype, "64") ? 8 : strstr(tensor->dtype, "32") ? 4 : 1;
  for (int i = 0; i < tensor->rank; i++) count *= (size_t)tensor->dims[i];
  return count;
}

int main(int count, char **arguments) {
  effc_model *m;
  const void *given[EFFC_MAX_THREADS];
  void *taken[EFFC_MAX_THREADS];
  if (count != 2 || effc_open(arguments[1], 1, &m) || effc_bind(m, NULL)) return puts(effc_message());
  int64_t slots[EFFC_SLOTS + 1];
  size_t arena, scratch;
  effc_slots(NULL, slots, &arena, &scratch);
  m->scratch = guarded(scratch);
  protect(m->arena, arena_guards);
  protect(m->weights, weight_guards);
  for (int i = 0; i < effc_input_count(); i++) {
    size_t nbytes = nbytes_of(effc_input(i));
    uint8_t *input = guarded(nbytes);
    if (fread(input, 1, nbytes, stdin) != nbytes) return 2;
    given[i] = input;
  }
  for (int i = 0; i < effc_output_count(); i++) taken[i] = guarded(nbytes_of(effc_output(i)));
  if (effc_run(m, NULL, given, taken)) return puts(effc_message());
  for (int i = 0; i < effc_output_count(); i++) fwrite(taken[i], 1, nbytes_of(effc_output(i)), stdout);
  return 0;
}
