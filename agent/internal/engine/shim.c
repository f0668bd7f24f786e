// Whole operations over wasmtime's C API. Nothing here keeps a Go pointer: Go is reached by integer handles.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef DUNLIN_DEBUG
#include <unistd.h>
#endif

#include "shim.h"

#include "_cgo_export.h"

wasm_engine_t *dunlin_engine_new(const dunlin_config *c) {
  // The C API has no setting for it: wasmtime reads the variable when a config is made.
  if (c->source_lines) setenv("WASMTIME_BACKTRACE_DETAILS", "1", 1);
  wasm_config_t *config = wasm_config_new();
  if (c->source_lines) unsetenv("WASMTIME_BACKTRACE_DETAILS");
  wasmtime_config_epoch_interruption_set(config, true);
  wasmtime_config_max_wasm_stack_set(config, c->stack);
  wasmtime_config_wasm_threads_set(config, false);
  wasmtime_config_wasm_component_model_set(config, true);
  wasmtime_config_memory_reservation_set(config, c->reservation);
  wasmtime_config_memory_guard_size_set(config, c->guard);
  if (c->slots == 0) {
    wasmtime_config_memory_reservation_for_growth_set(config, 1 << 20);
    return wasm_engine_new_with_config(config);
  }
  // Only memories take address space worth counting; the rest is metadata, and wide enough for composed components.
  uint32_t many = c->slots * INSTANCES_PER_SLOT;
  wasmtime_pooling_allocation_config_t *p = wasmtime_pooling_allocation_config_new();
  wasmtime_pooling_allocation_config_max_unused_warm_slots_set(p, c->slots);
  wasmtime_pooling_allocation_config_linear_memory_keep_resident_set(p, c->keep_resident);
  wasmtime_pooling_allocation_config_table_keep_resident_set(p, c->keep_resident);
  wasmtime_pooling_allocation_config_total_component_instances_set(p, many);
  wasmtime_pooling_allocation_config_max_component_instance_size_set(p, 16 << 20);
  wasmtime_pooling_allocation_config_max_core_instance_size_set(p, 16 << 20);
  wasmtime_pooling_allocation_config_total_core_instances_set(p, many);
  wasmtime_pooling_allocation_config_total_memories_set(p, c->slots);
  wasmtime_pooling_allocation_config_total_tables_set(p, c->slots * TABLES_PER_SLOT);
  wasmtime_pooling_allocation_config_table_elements_set(p, c->table_elements);
  wasmtime_pooling_allocation_config_max_tables_per_module_set(p, TABLES_PER_SLOT);
  wasmtime_pooling_allocation_config_max_memories_per_module_set(p, 8);
  wasmtime_pooling_allocation_config_total_stacks_set(p, 1);
  wasmtime_pooling_allocation_config_total_gc_heaps_set(p, c->slots);
  wasmtime_pooling_allocation_strategy_set(config, p);
  wasmtime_pooling_allocation_config_delete(p);
  return wasm_engine_new_with_config(config);
}

// Runs in the guest's own call when the epoch has passed its deadline: another store's interruption lets this one go on.
static wasmtime_error_t *on_epoch(wasmtime_context_t *ctx, void *data, uint64_t *delta, wasmtime_update_deadline_kind_t *kind) {
  (void)ctx;
  dunlin_store *s = data;
  if (__atomic_load_n(&s->interrupted, __ATOMIC_SEQ_CST)) return wasmtime_error_new("interrupted");
#ifdef DUNLIN_DEBUG
  usleep(200); // an interruption that falls in here is missed, unless it is repeated
#endif
  *delta = 1;
  *kind = WASMTIME_UPDATE_DEADLINE_CONTINUE;
  return NULL;
}

static void open_store(dunlin_store *s, wasm_engine_t *engine) {
  s->store = wasmtime_store_new(engine, s, NULL);
  s->ctx = wasmtime_store_context(s->store);
  wasmtime_store_epoch_deadline_callback(s->store, on_epoch, s, NULL);
  wasmtime_context_set_epoch_deadline(s->ctx, 1);
}

static void close_store(dunlin_store *s) {
  for (uint32_t i = 0; i < s->guest_count; i++)
    if (s->guests[i]) wasmtime_component_resource_any_delete(s->guests[i]);
  s->guest_count = 0;
  wasmtime_store_delete(s->store);
}

dunlin_store *dunlin_store_new(wasm_engine_t *engine, uintptr_t go, bool metered) {
  dunlin_store *s = calloc(1, sizeof *s);
  if (s == NULL) return NULL;
  s->go = go;
  s->meter.on = metered;
  if (metered) pthread_mutex_init(&s->meter.lock, NULL);
  open_store(s, engine);
  return s;
}

void dunlin_store_limit(dunlin_store *s, int64_t memory, int64_t elements, int64_t memories, int64_t tables) {
  // What a store may take of the pool goes with its slots, so that one component can't starve another.
  wasmtime_store_limiter(s->store, memory, elements, memories * INSTANCES_PER_SLOT, tables, memories);
}

void dunlin_store_renew(dunlin_store *s, wasm_engine_t *engine) {
  close_store(s);
  open_store(s, engine);
}

void dunlin_store_free(dunlin_store *s) {
  close_store(s);
  if (s->meter.on) pthread_mutex_destroy(&s->meter.lock);
  free(s->guests);
  dunlin_buf_free(&s->buf);
#ifdef DUNLIN_DEBUG
  memset(s, 0xDB, sizeof *s); // a use after this faults rather than works
#endif
  free(s);
}

void dunlin_store_interrupt(dunlin_store *s, wasm_engine_t *engine) {
  __atomic_store_n(&s->interrupted, 1, __ATOMIC_SEQ_CST);
  wasmtime_engine_increment_epoch(engine);
}

static uint64_t nanoseconds(clockid_t clock) {
  struct timespec t = {0};
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void meter_start(dunlin_meter *m) {
  if (!m->on) return;
  pthread_mutex_lock(&m->lock);
  if (m->depth++ == 0) {
    pthread_getcpuclockid(pthread_self(), &m->clock);
    m->from = nanoseconds(m->clock);
  }
  pthread_mutex_unlock(&m->lock);
}

static void meter_stop(dunlin_meter *m) {
  if (!m->on) return;
  pthread_mutex_lock(&m->lock);
  if (--m->depth == 0) m->spent += nanoseconds(m->clock) - m->from;
  pthread_mutex_unlock(&m->lock);
}

uint64_t dunlin_store_cpu(dunlin_store *s) {
  dunlin_meter *m = &s->meter;
  pthread_mutex_lock(&m->lock);
  uint64_t spent = m->spent;
  if (m->depth > 0) spent += nanoseconds(m->clock) - m->from;
  pthread_mutex_unlock(&m->lock);
  return spent;
}

// An error of this side, which Go tells from wasmtime's by its start.
static wasmtime_error_t *own_problem(const char *what) {
  char text[128];
  snprintf(text, sizeof text, "dunlin: %s", what);
  return wasmtime_error_new(text);
}

static wasmtime_error_t *host_call(void *fn, wasmtime_context_t *ctx, const wasmtime_component_func_type_t *type, wasmtime_component_val_t *args,
                                   size_t arg_count, wasmtime_component_val_t *results, size_t result_count) {
  (void)type;
  dunlin_store *s = wasmtime_context_get_data(ctx);
  s->buf.len = 0;
  dunlin_put_u32(&s->buf, (uint32_t)arg_count);
  for (size_t i = 0; i < arg_count; i++) {
    const char *problem = dunlin_write_val(s, ctx, &args[i]);
    if (problem) return own_problem(problem);
  }
  if (s->buf.failed) return own_problem("out of memory");
  if (!dunlinHostCall(s->go, (uintptr_t)fn, result_count)) return wasmtime_error_new("host function failed");
  if (result_count == 0) return NULL;
  dunlin_reader r = {.at = s->buf.data, .end = s->buf.data + s->buf.len, .store = s, .ctx = ctx};
  wasmtime_component_val_t v = {.kind = WASMTIME_COMPONENT_BOOL};
  bool ok = dunlin_read_val(&r, &v);
  if (ok && r.borrow_count > 0) r.problem = "a result can't hold a borrow";
  dunlin_return_borrows(&r);
  if (!ok || r.problem) {
    wasmtime_component_val_delete(&v);
    return own_problem(r.problem);
  }
  results[0] = v;
  return NULL;
}

static wasmtime_error_t *host_drop(void *fn, wasmtime_context_t *ctx, uint32_t rep) {
  dunlin_store *s = wasmtime_context_get_data(ctx);
  return dunlinHostDrop(s->go, (uintptr_t)fn, rep) ? NULL : wasmtime_error_new("host destructor failed");
}

static void release_func(void *fn) { dunlinReleaseFunc((uintptr_t)fn); }
static void release_drop(void *fn) { dunlinReleaseDrop((uintptr_t)fn); }

wasmtime_error_t *dunlin_add_func(wasmtime_component_linker_instance_t *l, const char *name, size_t len, uintptr_t fn) {
  return wasmtime_component_linker_instance_add_func(l, name, len, host_call, (void *)fn, release_func);
}

wasmtime_error_t *dunlin_add_resource(wasmtime_component_linker_instance_t *l, const char *name, size_t len, uint32_t type, uintptr_t fn) {
  wasmtime_component_resource_type_t *t = wasmtime_component_resource_type_new_host(type);
  wasmtime_error_t *err = wasmtime_component_linker_instance_add_resource(l, name, len, t, host_drop, (void *)fn, release_drop);
  wasmtime_component_resource_type_delete(t);
  return err;
}

wasmtime_error_t *dunlin_instantiate(dunlin_store *s, const wasmtime_component_linker_t *l, const wasmtime_component_t *c,
                                     wasmtime_component_instance_t *out) {
  meter_start(&s->meter);
  wasmtime_error_t *err = wasmtime_component_linker_instantiate(l, s->ctx, c, out);
  meter_stop(&s->meter);
  return err;
}

wasmtime_error_t *dunlin_call(dunlin_store *s, const wasmtime_component_instance_t *instance, const wasmtime_component_export_index_t *index,
                              bool has_result) {
  wasmtime_component_func_t func;
  if (!wasmtime_component_instance_get_func(instance, s->ctx, index, &func)) return own_problem("the export is not a function of this instance");
  dunlin_reader r = {.at = s->buf.data, .end = s->buf.data + s->buf.len, .store = s, .ctx = s->ctx};
  uint32_t count = dunlin_get_u32(&r), read = 0;
  wasmtime_component_val_t few[8], *args = few;
  if (count > 8) args = malloc(count * sizeof *args);
  wasmtime_error_t *err = NULL;
  for (; args != NULL && read < count && err == NULL; read++) {
    args[read].kind = WASMTIME_COMPONENT_BOOL;
    if (!dunlin_read_val(&r, &args[read])) err = own_problem(r.problem);
  }
  wasmtime_component_val_t result = {.kind = WASMTIME_COMPONENT_BOOL};
  if (args == NULL) err = own_problem("out of memory");
  meter_start(&s->meter);
  if (err == NULL) err = wasmtime_component_func_call(&func, s->ctx, args, count, &result, has_result);
  meter_stop(&s->meter);
  bool returned = dunlin_return_borrows(&r);
  if (err == NULL && !returned) err = own_problem("a borrow was passed where the function takes ownership");
  for (uint32_t i = 0; i < read; i++) wasmtime_component_val_delete(&args[i]);
  if (args != few) free(args);
  s->buf.len = 0;
  if (err == NULL && has_result) {
    const char *problem = dunlin_write_val(s, s->ctx, &result);
    if (problem == NULL && s->buf.failed) problem = "out of memory";
    if (problem) err = own_problem(problem);
  }
  wasmtime_component_val_delete(&result);
  return err;
}

wasmtime_error_t *dunlin_drop_guest(dunlin_store *s, uint32_t index) {
  if (index >= s->guest_count || s->guests[index] == NULL) return own_problem("the resource was dropped before");
  wasmtime_component_resource_any_t *any = s->guests[index];
  s->guests[index] = NULL;
  meter_start(&s->meter);
  wasmtime_error_t *err = wasmtime_component_resource_any_drop(s->ctx, any);
  meter_stop(&s->meter);
  wasmtime_component_resource_any_delete(any);
  return err;
}

static void put_name(dunlin_buf *out, const wasm_name_t *n) {
  if (n == NULL) dunlin_put_u32(out, 0);
  else dunlin_put_bytes(out, n->data, n->size);
}

// The message, then the frames (module, function, index), innermost first. err is gone after.
void dunlin_error_take(wasmtime_error_t *err, dunlin_buf *out) {
  wasm_name_t message;
  wasmtime_error_message(err, &message);
  put_name(out, &message);
  wasm_byte_vec_delete(&message);
  wasm_frame_vec_t frames;
  wasmtime_error_wasm_trace(err, &frames);
  dunlin_put_u32(out, (uint32_t)frames.size);
  for (size_t i = 0; i < frames.size; i++) {
    put_name(out, wasmtime_frame_module_name(frames.data[i]));
    put_name(out, wasmtime_frame_func_name(frames.data[i]));
    dunlin_put_u32(out, wasm_frame_func_index(frames.data[i]));
  }
  wasm_frame_vec_delete(&frames); // frames point into err
  wasmtime_error_delete(err);
}

static void put_item(const wasm_engine_t *engine, const char *name, size_t len, wasmtime_component_item_t *item, dunlin_buf *out) {
  dunlin_put_u8(out, item->kind);
  dunlin_put_bytes(out, name, len);
  if (item->kind == WASMTIME_COMPONENT_ITEM_COMPONENT_FUNC) {
    wasmtime_component_valtype_t type;
    bool has = wasmtime_component_func_type_result(item->of.component_func, &type);
    if (has) wasmtime_component_valtype_delete(&type);
    dunlin_put_u8(out, has);
  } else if (item->kind == WASMTIME_COMPONENT_ITEM_COMPONENT_INSTANCE) {
    size_t count = wasmtime_component_instance_type_export_count(item->of.component_instance, engine);
    dunlin_put_u32(out, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
      wasmtime_component_item_t member;
      if (wasmtime_component_instance_type_export_nth(item->of.component_instance, engine, i, &name, &len, &member))
        put_item(engine, name, len, &member, out);
    }
  }
  wasmtime_component_item_delete(item);
}

void dunlin_reflect(const wasmtime_component_t *c, const wasm_engine_t *engine, bool imports, dunlin_buf *out) {
  wasmtime_component_type_t *type = wasmtime_component_type(c);
  size_t count = imports ? wasmtime_component_type_import_count(type, engine) : wasmtime_component_type_export_count(type, engine);
  dunlin_put_u32(out, (uint32_t)count);
  for (size_t i = 0; i < count; i++) {
    const char *name;
    size_t len;
    wasmtime_component_item_t item;
    bool found = imports ? wasmtime_component_type_import_nth(type, engine, i, &name, &len, &item)
                         : wasmtime_component_type_export_nth(type, engine, i, &name, &len, &item);
    if (found) put_item(engine, name, len, &item, out);
  }
  wasmtime_component_type_delete(type);
}
