// Values to and from the flat encoding: a tag byte, then fixed-width numbers in the machine's order, u32 lengths and counts.
#include <stdlib.h>
#include <string.h>

#include "shim.h"

bool dunlin_buf_reserve(dunlin_buf *b, size_t cap) {
  if (cap <= b->cap) return true;
  size_t want = b->cap * 2 > cap ? b->cap * 2 : cap;
  uint8_t *data = realloc(b->data, want);
  if (data == NULL) {
    b->failed = true;
    return false;
  }
  b->data = data;
  b->cap = want;
  return true;
}

void dunlin_buf_free(dunlin_buf *b) {
  free(b->data);
  *b = (dunlin_buf){0};
}

void dunlin_put(dunlin_buf *b, const void *data, size_t n) {
  if (n == 0 || b->failed || !dunlin_buf_reserve(b, b->len + n)) return;
  memcpy(b->data + b->len, data, n);
  b->len += n;
}

void dunlin_put_u8(dunlin_buf *b, uint8_t v) { dunlin_put(b, &v, 1); }
void dunlin_put_u32(dunlin_buf *b, uint32_t v) { dunlin_put(b, &v, 4); }

void dunlin_put_bytes(dunlin_buf *b, const void *data, size_t n) {
  dunlin_put_u32(b, (uint32_t)n);
  dunlin_put(b, data, n);
}

static const char *put_payload(dunlin_store *s, wasmtime_context_t *ctx, const wasmtime_component_val_t *v) {
  dunlin_put_u8(&s->buf, v != NULL);
  return v == NULL ? NULL : dunlin_write_val(s, ctx, v);
}

static const char *put_vals(dunlin_store *s, wasmtime_context_t *ctx, uint8_t tag, const struct dw_vals *l) {
  dunlin_buf *b = &s->buf;
  if (tag == DUNLIN_LIST && l->size > 0 && l->data[0].kind == WASMTIME_COMPONENT_U8) {
    dunlin_put_u8(b, DUNLIN_BYTES);
    dunlin_put_u32(b, (uint32_t)l->size);
    if (b->failed || !dunlin_buf_reserve(b, b->len + l->size)) return NULL;
    for (size_t i = 0; i < l->size; i++) b->data[b->len + i] = l->data[i].of.u8;
    b->len += l->size;
    return NULL;
  }
  dunlin_put_u8(b, tag);
  dunlin_put_u32(b, (uint32_t)l->size);
  for (size_t i = 0; i < l->size; i++) {
    const char *problem = dunlin_write_val(s, ctx, &l->data[i]);
    if (problem) return problem;
  }
  return NULL;
}

static bool keep_guest(dunlin_store *s, const wasmtime_component_resource_any_t *any, uint32_t *index) {
  if (s->guest_count == s->guest_cap) {
    uint32_t cap = s->guest_cap ? s->guest_cap * 2 : 8;
    void *guests = realloc(s->guests, cap * sizeof *s->guests);
    if (guests == NULL) return false;
    s->guests = guests;
    s->guest_cap = cap;
  }
  *index = s->guest_count++;
  s->guests[*index] = wasmtime_component_resource_any_clone(any);
  return true;
}

// A borrow must not outlive the host function that it was handed to, so it is consumed here: any_to_host does that for the
// host's own resources, a drop for a guest's.
static const char *put_resource(dunlin_store *s, wasmtime_context_t *ctx, const wasmtime_component_resource_any_t *any) {
  dunlin_buf *b = &s->buf;
  wasmtime_component_resource_host_t *host = NULL;
  wasmtime_error_t *err = wasmtime_component_resource_any_to_host(ctx, any, &host);
  if (err == NULL) {
    dunlin_put_u8(b, DUNLIN_HOST_RESOURCE);
    dunlin_put_u8(b, wasmtime_component_resource_host_owned(host));
    dunlin_put_u32(b, wasmtime_component_resource_host_type(host));
    dunlin_put_u32(b, wasmtime_component_resource_host_rep(host));
    wasmtime_component_resource_host_delete(host);
    return NULL;
  }
  wasmtime_error_delete(err);
  bool owned = wasmtime_component_resource_any_owned(any);
  uint32_t index = UINT32_MAX;
  if (!owned) {
    err = wasmtime_component_resource_any_drop(ctx, any);
    if (err != NULL) {
      wasmtime_error_delete(err);
      return "a borrowed resource can't be returned";
    }
  } else if (!keep_guest(s, any, &index)) {
    return "out of memory";
  }
  dunlin_put_u8(b, DUNLIN_GUEST_RESOURCE);
  dunlin_put_u8(b, owned);
  dunlin_put_u32(b, index);
  return NULL;
}

#define PUT(tag, field) \
  dunlin_put_u8(b, tag); \
  dunlin_put(b, &v->of.field, sizeof v->of.field); \
  return NULL

// Returns NULL or what is wrong.
const char *dunlin_write_val(dunlin_store *s, wasmtime_context_t *ctx, const wasmtime_component_val_t *v) {
  dunlin_buf *b = &s->buf;
  const char *problem = NULL;
  switch (v->kind) {
  case WASMTIME_COMPONENT_BOOL: PUT(DUNLIN_BOOL, u8);
  case WASMTIME_COMPONENT_S8: PUT(DUNLIN_S8, s8);
  case WASMTIME_COMPONENT_U8: PUT(DUNLIN_U8, u8);
  case WASMTIME_COMPONENT_S16: PUT(DUNLIN_S16, s16);
  case WASMTIME_COMPONENT_U16: PUT(DUNLIN_U16, u16);
  case WASMTIME_COMPONENT_S32: PUT(DUNLIN_S32, s32);
  case WASMTIME_COMPONENT_U32: PUT(DUNLIN_U32, u32);
  case WASMTIME_COMPONENT_S64: PUT(DUNLIN_S64, s64);
  case WASMTIME_COMPONENT_U64: PUT(DUNLIN_U64, u64);
  case WASMTIME_COMPONENT_F32: PUT(DUNLIN_F32, f32);
  case WASMTIME_COMPONENT_F64: PUT(DUNLIN_F64, f64);
  case WASMTIME_COMPONENT_CHAR: PUT(DUNLIN_CHAR, character);
  case WASMTIME_COMPONENT_STRING:
    dunlin_put_u8(b, DUNLIN_STRING);
    dunlin_put_bytes(b, v->of.string.data, v->of.string.size);
    return NULL;
  case WASMTIME_COMPONENT_ENUM:
    dunlin_put_u8(b, DUNLIN_ENUM);
    dunlin_put_bytes(b, v->of.enumeration.data, v->of.enumeration.size);
    return NULL;
  case WASMTIME_COMPONENT_LIST: return put_vals(s, ctx, DUNLIN_LIST, &v->of.list);
  case WASMTIME_COMPONENT_TUPLE: return put_vals(s, ctx, DUNLIN_TUPLE, &v->of.tuple);
  case WASMTIME_COMPONENT_RECORD:
    dunlin_put_u8(b, DUNLIN_RECORD);
    dunlin_put_u32(b, (uint32_t)v->of.record.size);
    for (size_t i = 0; i < v->of.record.size && problem == NULL; i++) {
      const struct dw_entry *e = &v->of.record.data[i];
      dunlin_put_bytes(b, e->name.data, e->name.size);
      problem = dunlin_write_val(s, ctx, &e->val);
    }
    return problem;
  case WASMTIME_COMPONENT_VARIANT:
    dunlin_put_u8(b, DUNLIN_VARIANT);
    dunlin_put_bytes(b, v->of.variant.discriminant.data, v->of.variant.discriminant.size);
    return put_payload(s, ctx, v->of.variant.val);
  case WASMTIME_COMPONENT_OPTION:
    dunlin_put_u8(b, DUNLIN_OPTION);
    return put_payload(s, ctx, v->of.option);
  case WASMTIME_COMPONENT_RESULT:
    dunlin_put_u8(b, DUNLIN_RESULT);
    dunlin_put_u8(b, v->of.result.is_ok);
    return put_payload(s, ctx, v->of.result.val);
  case WASMTIME_COMPONENT_FLAGS:
    dunlin_put_u8(b, DUNLIN_FLAGS);
    dunlin_put_u32(b, (uint32_t)v->of.flags.size);
    for (size_t i = 0; i < v->of.flags.size; i++) dunlin_put_bytes(b, v->of.flags.data[i].data, v->of.flags.data[i].size);
    return NULL;
  case WASMTIME_COMPONENT_RESOURCE: return put_resource(s, ctx, v->of.resource);
  }
  return "a value of a kind that this host doesn't know";
}

static bool fail(dunlin_reader *r, const char *problem) {
  if (r->problem == NULL) r->problem = problem;
  return false;
}

static bool get(dunlin_reader *r, void *out, size_t n) {
  if ((size_t)(r->end - r->at) < n) return fail(r, "value buffer ends early");
  memcpy(out, r->at, n);
  r->at += n;
  return true;
}

static uint8_t get_u8(dunlin_reader *r) {
  uint8_t v = 0;
  get(r, &v, 1);
  return v;
}

uint32_t dunlin_get_u32(dunlin_reader *r) {
  uint32_t v = 0;
  get(r, &v, 4);
  return v;
}

// A count of things that take at least one byte each, so that no count makes an allocation larger than the buffer explains.
static bool get_count(dunlin_reader *r, uint32_t *n) {
  *n = dunlin_get_u32(r);
  if ((size_t)(r->end - r->at) < *n) return fail(r, "value buffer ends early");
  return r->problem == NULL;
}

static bool get_name(dunlin_reader *r, wasm_name_t *out) {
  uint32_t n;
  if (!get_count(r, &n)) return false;
  wasm_byte_vec_new(out, n, (const char *)r->at);
  r->at += n;
  return true;
}

// Into a fresh value on wasmtime's heap, or NULL for no payload.
static bool get_payload(dunlin_reader *r, wasmtime_component_val_t **out) {
  *out = NULL;
  if (get_u8(r) == 0) return r->problem == NULL;
  wasmtime_component_val_t v = {.kind = WASMTIME_COMPONENT_BOOL};
  bool ok = dunlin_read_val(r, &v);
  *out = wasmtime_component_val_new(&v);
  return ok;
}

static bool get_vals(dunlin_reader *r, struct dw_vals *l) {
  for (size_t i = 0; i < l->size; i++)
    if (!dunlin_read_val(r, &l->data[i])) return false;
  return true;
}

static bool get_host_resource(dunlin_reader *r, wasmtime_component_val_t *out) {
  bool owned = get_u8(r);
  uint32_t type = dunlin_get_u32(r), rep = dunlin_get_u32(r);
  if (r->problem) return false;
  // A borrow is lent as an own that is taken back after the call: outside of a call wasmtime makes no borrows.
  wasmtime_component_resource_host_t *host = wasmtime_component_resource_host_new(true, rep, type);
  wasmtime_component_resource_any_t *any = NULL;
  wasmtime_error_t *err = wasmtime_component_resource_host_to_any(r->ctx, host, &any);
  wasmtime_component_resource_host_delete(host);
  if (err != NULL) {
    wasmtime_error_delete(err);
    return fail(r, "the store takes no more resources");
  }
  out->kind = WASMTIME_COMPONENT_RESOURCE;
  out->of.resource = any;
  if (owned) return true;
  if (r->borrow_count == r->borrow_cap) {
    uint32_t cap = r->borrow_cap ? r->borrow_cap * 2 : 4;
    void *borrows = realloc(r->borrows, cap * sizeof *r->borrows);
    if (borrows == NULL) return fail(r, "out of memory");
    r->borrows = borrows;
    r->borrow_cap = cap;
  }
  r->borrows[r->borrow_count++] = wasmtime_component_resource_any_clone(any);
  return true;
}

static bool get_guest_resource(dunlin_reader *r, wasmtime_component_val_t *out) {
  get_u8(r);
  uint32_t index = dunlin_get_u32(r);
  if (r->problem) return false;
  if (index >= r->store->guest_count || r->store->guests[index] == NULL) return fail(r, "a resource that was dropped, or is another store's");
  out->kind = WASMTIME_COMPONENT_RESOURCE;
  out->of.resource = wasmtime_component_resource_any_clone(r->store->guests[index]);
  return true;
}

// Takes back what was lent, and reports whether all of it was still there. No destructor runs.
bool dunlin_return_borrows(dunlin_reader *r) {
  bool all = true;
  for (uint32_t i = 0; i < r->borrow_count; i++) {
    wasmtime_error_t *err = wasmtime_component_resource_any_drop(r->ctx, r->borrows[i]);
    if (err != NULL) {
      wasmtime_error_delete(err);
      all = false;
    }
    wasmtime_component_resource_any_delete(r->borrows[i]);
  }
  free(r->borrows);
  r->borrows = NULL;
  r->borrow_count = r->borrow_cap = 0;
  return all;
}

#define GET(k, field) \
  out->kind = k; \
  out->of.u64 = 0; \
  return get(r, &out->of.field, sizeof out->of.field)

// out holds a bool before, and whatever happens something that can be deleted after.
bool dunlin_read_val(dunlin_reader *r, wasmtime_component_val_t *out) {
  uint32_t n;
  switch (get_u8(r)) {
  case DUNLIN_BOOL:
    out->kind = WASMTIME_COMPONENT_BOOL;
    out->of.boolean = get_u8(r) != 0;
    return r->problem == NULL;
  case DUNLIN_S8: GET(WASMTIME_COMPONENT_S8, s8);
  case DUNLIN_U8: GET(WASMTIME_COMPONENT_U8, u8);
  case DUNLIN_S16: GET(WASMTIME_COMPONENT_S16, s16);
  case DUNLIN_U16: GET(WASMTIME_COMPONENT_U16, u16);
  case DUNLIN_S32: GET(WASMTIME_COMPONENT_S32, s32);
  case DUNLIN_U32: GET(WASMTIME_COMPONENT_U32, u32);
  case DUNLIN_S64: GET(WASMTIME_COMPONENT_S64, s64);
  case DUNLIN_U64: GET(WASMTIME_COMPONENT_U64, u64);
  case DUNLIN_F32: GET(WASMTIME_COMPONENT_F32, f32);
  case DUNLIN_F64: GET(WASMTIME_COMPONENT_F64, f64);
  case DUNLIN_CHAR: GET(WASMTIME_COMPONENT_CHAR, character);
  case DUNLIN_STRING:
    if (!get_name(r, &out->of.string)) return false;
    out->kind = WASMTIME_COMPONENT_STRING;
    return true;
  case DUNLIN_ENUM:
    if (!get_name(r, &out->of.enumeration)) return false;
    out->kind = WASMTIME_COMPONENT_ENUM;
    return true;
  case DUNLIN_BYTES:
    if (!get_count(r, &n)) return false;
    wasmtime_component_vallist_new_uninit(&out->of.list, n);
    out->kind = WASMTIME_COMPONENT_LIST;
    for (uint32_t i = 0; i < n; i++) {
      out->of.list.data[i].kind = WASMTIME_COMPONENT_U8;
      out->of.list.data[i].of.u8 = r->at[i];
    }
    r->at += n;
    return true;
  case DUNLIN_LIST:
    if (!get_count(r, &n)) return false;
    wasmtime_component_vallist_new_uninit(&out->of.list, n);
    out->kind = WASMTIME_COMPONENT_LIST;
    return get_vals(r, &out->of.list);
  case DUNLIN_TUPLE:
    if (!get_count(r, &n)) return false;
    wasmtime_component_valtuple_new_uninit(&out->of.tuple, n);
    out->kind = WASMTIME_COMPONENT_TUPLE;
    return get_vals(r, &out->of.tuple);
  case DUNLIN_RECORD:
    if (!get_count(r, &n)) return false;
    wasmtime_component_valrecord_new_uninit(&out->of.record, n);
    out->kind = WASMTIME_COMPONENT_RECORD;
    for (uint32_t i = 0; i < n; i++) {
      struct dw_entry *e = &out->of.record.data[i];
      if (!get_name(r, &e->name) || !dunlin_read_val(r, &e->val)) return false;
    }
    return true;
  case DUNLIN_VARIANT:
    if (!get_name(r, &out->of.variant.discriminant)) return false;
    out->of.variant.val = NULL;
    out->kind = WASMTIME_COMPONENT_VARIANT;
    return get_payload(r, &out->of.variant.val);
  case DUNLIN_OPTION:
    out->kind = WASMTIME_COMPONENT_OPTION;
    return get_payload(r, &out->of.option);
  case DUNLIN_RESULT:
    out->of.result.is_ok = get_u8(r) != 0;
    out->of.result.val = NULL;
    out->kind = WASMTIME_COMPONENT_RESULT;
    return get_payload(r, &out->of.result.val);
  case DUNLIN_FLAGS:
    if (!get_count(r, &n)) return false;
    wasmtime_component_valflags_new_uninit(&out->of.flags, n);
    out->kind = WASMTIME_COMPONENT_FLAGS;
    for (uint32_t i = 0; i < n; i++)
      if (!get_name(r, &out->of.flags.data[i])) return false;
    return true;
  case DUNLIN_HOST_RESOURCE: return get_host_resource(r, out);
  case DUNLIN_GUEST_RESOURCE: return get_guest_resource(r, out);
  }
  return fail(r, "a value without a kind");
}
