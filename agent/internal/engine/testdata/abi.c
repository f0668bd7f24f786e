// Compiled by TestDeclarationsMatchTheRealHeaders with the real headers before ours: the same macros, compatible prototypes, and
// equal layouts. Any difference fails to compile.
#include <wasm.h>
#include <wasmtime.h>

#define DUNLIN_ABI_CHECK
#include "../wasmtime.h"

#define SAME_SIZE(ours, real) \
  _Static_assert(sizeof(ours) == sizeof(real), #real ": size"); \
  _Static_assert(_Alignof(ours) == _Alignof(real), #real ": alignment")
#define SAME_FIELD(ours, our_field, real, real_field) \
  _Static_assert(offsetof(ours, our_field) == offsetof(real, real_field), #real "." #real_field ": offset"); \
  _Static_assert(sizeof(((ours *)0)->our_field) == sizeof(((real *)0)->real_field), #real "." #real_field ": size")
#define SAME(ours, real, field) SAME_FIELD(ours, field, real, field)

SAME_SIZE(struct dw_bytes, wasm_byte_vec_t);
SAME(struct dw_bytes, wasm_byte_vec_t, size);
SAME(struct dw_bytes, wasm_byte_vec_t, data);
SAME_SIZE(struct dw_bytes, wasm_name_t);
SAME_SIZE(struct dw_frames, wasm_frame_vec_t);
SAME(struct dw_frames, wasm_frame_vec_t, size);
SAME(struct dw_frames, wasm_frame_vec_t, data);

SAME_SIZE(struct dw_instance, wasmtime_component_instance_t);
SAME(struct dw_instance, wasmtime_component_instance_t, store_id);
SAME_FIELD(struct dw_instance, private1, wasmtime_component_instance_t, __private);
SAME_SIZE(struct dw_func, wasmtime_component_func_t);
SAME_FIELD(struct dw_func, instance.store_id, wasmtime_component_func_t, store_id);
SAME_FIELD(struct dw_func, instance.private1, wasmtime_component_func_t, __private1);
SAME_FIELD(struct dw_func, private2, wasmtime_component_func_t, __private2);

#define SAME_VEC(ours, real) \
  SAME_SIZE(ours, real); \
  SAME(ours, real, size); \
  SAME(ours, real, data); \
  _Static_assert(sizeof *((ours *)0)->data == sizeof *((real *)0)->data, #real ": element")
SAME_VEC(struct dw_vals, wasmtime_component_vallist_t);
SAME_VEC(struct dw_vals, wasmtime_component_valtuple_t);
SAME_VEC(struct dw_entries, wasmtime_component_valrecord_t);
SAME_VEC(struct dw_names, wasmtime_component_valflags_t);
SAME_SIZE(struct dw_variant, wasmtime_component_valvariant_t);
SAME(struct dw_variant, wasmtime_component_valvariant_t, discriminant);
SAME(struct dw_variant, wasmtime_component_valvariant_t, val);
SAME_SIZE(struct dw_result, wasmtime_component_valresult_t);
SAME(struct dw_result, wasmtime_component_valresult_t, is_ok);
SAME(struct dw_result, wasmtime_component_valresult_t, val);

SAME_SIZE(struct dw_val, wasmtime_component_val_t);
SAME(struct dw_val, wasmtime_component_val_t, kind);
SAME(struct dw_val, wasmtime_component_val_t, of);
#define SAME_OF(field) SAME(union dw_of, wasmtime_component_valunion_t, field)
SAME_OF(boolean);
SAME_OF(s8);
SAME_OF(u8);
SAME_OF(s16);
SAME_OF(u16);
SAME_OF(s32);
SAME_OF(u32);
SAME_OF(s64);
SAME_OF(u64);
SAME_OF(f32);
SAME_OF(f64);
SAME_OF(character);
SAME_OF(string);
SAME_OF(list);
SAME_OF(record);
SAME_OF(tuple);
SAME_OF(variant);
SAME_OF(enumeration);
SAME_OF(option);
SAME_OF(result);
SAME_OF(flags);
SAME_OF(resource);
SAME_SIZE(struct dw_entry, wasmtime_component_valrecord_entry_t);
SAME(struct dw_entry, wasmtime_component_valrecord_entry_t, name);
SAME(struct dw_entry, wasmtime_component_valrecord_entry_t, val);

SAME_SIZE(struct dw_type, wasmtime_component_valtype_t);
SAME(struct dw_type, wasmtime_component_valtype_t, kind);
SAME(struct dw_type, wasmtime_component_valtype_t, of);
SAME_SIZE(struct dw_item, wasmtime_component_item_t);
SAME(struct dw_item, wasmtime_component_item_t, kind);
SAME(struct dw_item, wasmtime_component_item_t, of);
SAME(union dw_item_of, wasmtime_component_item_union_t, component_instance);
SAME(union dw_item_of, wasmtime_component_item_union_t, component_func);
SAME(union dw_item_of, wasmtime_component_item_union_t, type);
