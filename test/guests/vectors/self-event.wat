;; The agent's event to itself (agent/selfevent.go): succeeds at once, in a memory of its own, so that it needs all that any event needs.
(component
  (core module $m
    (memory 1)
    (func (export "run") (result i32)
      (i32.store (i32.const 0) (i32.const 1))
      (i32.sub (i32.load (i32.const 0)) (i32.const 1))))
  (core instance $i (instantiate $m))
  (func $run (result (result))
    (canon lift (core func $i "run")))
  (instance $handler
    (export "run" (func $run)))
  (export "wasi:cli/run@0.2.12" (instance $handler)))
