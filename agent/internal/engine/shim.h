// What the Go side calls: whole operations, so that one crossing does one job and values cross as one flat buffer.
#ifndef DUNLIN_SHIM_H
#define DUNLIN_SHIM_H

#include <pthread.h>

#include "wasmtime.h"

// Tags of the flat encoding; equal to the Go constants of type Kind.
enum {
  DUNLIN_BOOL = 1,
  DUNLIN_S8,
  DUNLIN_U8,
  DUNLIN_S16,
  DUNLIN_U16,
  DUNLIN_S32,
  DUNLIN_U32,
  DUNLIN_S64,
  DUNLIN_U64,
  DUNLIN_F32,
  DUNLIN_F64,
  DUNLIN_CHAR,
  DUNLIN_STRING,
  DUNLIN_BYTES,
  DUNLIN_LIST,
  DUNLIN_RECORD,
  DUNLIN_TUPLE,
  DUNLIN_VARIANT,
  DUNLIN_ENUM,
  DUNLIN_OPTION,
  DUNLIN_RESULT,
  DUNLIN_FLAGS,
  DUNLIN_HOST_RESOURCE,
  DUNLIN_GUEST_RESOURCE,
};

// A growing byte buffer in C memory. A failed allocation sets failed and drops what follows.
typedef struct {
  uint8_t *data;
  size_t len, cap;
  bool failed;
} dunlin_buf;

bool dunlin_buf_reserve(dunlin_buf *b, size_t cap);
void dunlin_buf_free(dunlin_buf *b);
void dunlin_put(dunlin_buf *b, const void *data, size_t n);
void dunlin_put_u8(dunlin_buf *b, uint8_t v);
void dunlin_put_u32(dunlin_buf *b, uint32_t v);
void dunlin_put_bytes(dunlin_buf *b, const void *data, size_t n);

// What a store's calls have cost in processor time, on whichever threads they ran. lock is between them and who looks.
typedef struct {
  bool on; // for the store's whole life
  pthread_mutex_t lock;
  unsigned depth; // of calls under way, one inside the other on one thread
  clockid_t clock; // of that thread
  uint64_t from, spent; // nanoseconds
} dunlin_meter;

// One store. go is the Go side's handle; buf carries values in both directions, each use read whole before the next begins.
typedef struct {
  int interrupted;
  dunlin_meter meter;
  uintptr_t go;
  wasmtime_store_t *store;
  wasmtime_context_t *ctx;
  dunlin_buf buf;
  wasmtime_component_resource_any_t **guests; // guest resources that the host holds, by index; NULL once dropped
  uint32_t guest_count, guest_cap;
} dunlin_store;

// What a store may have for each linear memory that it has.
enum { INSTANCES_PER_SLOT = 64, TABLES_PER_SLOT = 8 };

typedef struct {
  uint32_t slots; // 0: no pool, memories on demand
  uint64_t reservation, guard;
  size_t stack, table_elements, keep_resident;
  bool source_lines;
} dunlin_config;

wasm_engine_t *dunlin_engine_new(const dunlin_config *c);

dunlin_store *dunlin_store_new(wasm_engine_t *engine, uintptr_t go, bool metered);
void dunlin_store_limit(dunlin_store *s, int64_t memory, int64_t elements, int64_t memories, int64_t tables);
void dunlin_store_renew(dunlin_store *s, wasm_engine_t *engine);
void dunlin_store_free(dunlin_store *s);
void dunlin_store_interrupt(dunlin_store *s, wasm_engine_t *engine);
uint64_t dunlin_store_cpu(dunlin_store *s); // nanoseconds; from any thread, calls under way included

wasmtime_error_t *dunlin_add_func(wasmtime_component_linker_instance_t *l, const char *name, size_t len, uintptr_t fn);
wasmtime_error_t *dunlin_add_resource(wasmtime_component_linker_instance_t *l, const char *name, size_t len, uint32_t type, uintptr_t fn);

wasmtime_error_t *dunlin_instantiate(dunlin_store *s, const wasmtime_component_linker_t *l, const wasmtime_component_t *c,
                                     wasmtime_component_instance_t *out);
// Arguments stand in s->buf, and the result (nothing, or one value) is put there.
wasmtime_error_t *dunlin_call(dunlin_store *s, const wasmtime_component_instance_t *instance, const wasmtime_component_export_index_t *index,
                              bool has_result);
wasmtime_error_t *dunlin_drop_guest(dunlin_store *s, uint32_t index);

void dunlin_error_take(wasmtime_error_t *err, dunlin_buf *out);
void dunlin_reflect(const wasmtime_component_t *c, const wasm_engine_t *engine, bool imports, dunlin_buf *out);

// In val.c.
typedef struct {
  const uint8_t *at, *end;
  dunlin_store *store;
  wasmtime_context_t *ctx;
  wasmtime_component_resource_any_t **borrows; // lent to the guest for one call
  uint32_t borrow_count, borrow_cap;
  const char *problem;
} dunlin_reader;

uint32_t dunlin_get_u32(dunlin_reader *r);
bool dunlin_read_val(dunlin_reader *r, wasmtime_component_val_t *out);
bool dunlin_return_borrows(dunlin_reader *r);
const char *dunlin_write_val(dunlin_store *s, wasmtime_context_t *ctx, const wasmtime_component_val_t *v);

#endif
