;; A command that imports what nobody provides: refused before it runs, naming the import.
(component
  (import "acme:rocket/engine@1.0.0" (instance $engine
    (export "ignite" (func))))
  (core func $ignite (canon lower (func $engine "ignite")))
  (core module $m
    (import "engine" "ignite" (func $ignite))
    (func (export "run") (result i32)
      call $ignite
      i32.const 0))
  (core instance $i (instantiate $m
    (with "engine" (instance (export "ignite" (func $ignite))))))
  (func $run (result (result))
    (canon lift (core func $i "run")))
  (instance $handler
    (export "run" (func $run)))
  (export "wasi:cli/run@0.2.12" (instance $handler)))
