// What the C API takes to bring bytes into a guest and out of it again, with nothing of Dunlin around it: the floor below a
// body's way through a handler. Built by the bench with the library and the headers that the programs are built with.
//
//   floor BYTES CHUNK ROUNDS   prints the median of the rounds in ns of processor time: BYTES as calls of CHUNK each, to a guest and on to a host function
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <wasmtime.h>

static const char wat[] =
    "(component (import \"h\" (func $h (param \"a\" (list u8))))"
    " (core module $mem (memory (export \"m\") 64)"
    "  (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) i32.const 65536))"
    " (core instance $mem (instantiate $mem))"
    " (core func $h' (canon lower (func $h) (memory $mem \"m\")))"
    " (core module $m (import \"\" \"h\" (func $h (param i32 i32)))"
    "  (func (export \"f\") (param i32 i32) (call $h (local.get 0) (local.get 1))))"
    " (core instance $i (instantiate $m (with \"\" (instance (export \"h\" (func $h'))))))"
    " (func (export \"f\") (param \"a\" (list u8))"
    "  (canon lift (core func $i \"f\") (memory $mem \"m\") (realloc (func $mem \"realloc\")))))";

static uint8_t *in, *out;
static size_t chunk, got;

static void must(wasmtime_error_t *err) {
  if (err == NULL) return;
  wasm_name_t text;
  wasmtime_error_message(err, &text);
  fprintf(stderr, "floor: %.*s\n", (int)text.size, text.data);
  exit(1);
}

static wasmtime_error_t *host(void *data, wasmtime_context_t *ctx, const wasmtime_component_func_type_t *type,
                              wasmtime_component_val_t *args, size_t nargs, wasmtime_component_val_t *results, size_t nresults) {
  (void)data, (void)ctx, (void)type, (void)nargs, (void)results, (void)nresults;
  got = args[0].of.list.size;
  for (size_t i = 0; i < got; i++) out[i] = args[0].of.list.data[i].of.u8;
  return NULL;
}

static int order(const void *a, const void *b) {
  long long x = *(const long long *)a, y = *(const long long *)b;
  return (x > y) - (x < y);
}

static long long spent(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); // one thread that never waits: others' work is not in it
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  mallopt(M_MMAP_THRESHOLD, 4 << 20); // as the agent does: else each list of 8 KiB, 256 KiB of values, is a mapping of its own
  mallopt(M_TRIM_THRESHOLD, 8 << 20);
  size_t bytes = strtoul(argv[1], NULL, 10), rounds = strtoul(argv[3], NULL, 10);
  chunk = strtoul(argv[2], NULL, 10);
  in = malloc(chunk), out = malloc(chunk);
  for (size_t i = 0; i < chunk; i++) in[i] = (uint8_t)i;

  wasm_byte_vec_t wasm;
  must(wasmtime_wat2wasm(wat, strlen(wat), &wasm));
  wasm_engine_t *engine = wasm_engine_new();
  wasmtime_component_t *component;
  must(wasmtime_component_new(engine, (uint8_t *)wasm.data, wasm.size, &component));
  wasmtime_component_linker_t *linker = wasmtime_component_linker_new(engine);
  wasmtime_component_linker_instance_t *root = wasmtime_component_linker_root(linker);
  must(wasmtime_component_linker_instance_add_func(root, "h", 1, host, NULL, NULL));
  wasmtime_component_linker_instance_delete(root);
  wasmtime_store_t *store = wasmtime_store_new(engine, NULL, NULL);
  wasmtime_context_t *ctx = wasmtime_store_context(store);
  wasmtime_component_instance_t instance;
  must(wasmtime_component_linker_instantiate(linker, ctx, component, &instance));
  wasmtime_component_export_index_t *at = wasmtime_component_get_export_index(component, NULL, "f", 1);
  wasmtime_component_func_t f;
  if (at == NULL || !wasmtime_component_instance_get_func(&instance, ctx, at, &f)) return 3;

  long long *each = calloc(rounds, sizeof *each);
  for (size_t r = 0; r < rounds; r++) {
    long long began = spent();
    for (size_t done = 0; done < bytes; done += chunk) {
      wasmtime_component_val_t arg = {.kind = WASMTIME_COMPONENT_LIST};
      wasmtime_component_vallist_new_uninit(&arg.of.list, chunk);
      for (size_t i = 0; i < chunk; i++)
        arg.of.list.data[i] = (wasmtime_component_val_t){.kind = WASMTIME_COMPONENT_U8, .of.u8 = in[i]};
      must(wasmtime_component_func_call(&f, ctx, &arg, 1, NULL, 0));
      wasmtime_component_val_delete(&arg);
      if (got != chunk || memcmp(in, out, chunk) != 0) return 4;
    }
    each[r] = spent() - began;
  }
  qsort(each, rounds, sizeof *each, order);
  printf("%lld\n", each[rounds / 2]);
  return 0;
}
