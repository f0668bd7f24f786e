;; A component for WASI 0.3: an async export under a 0.3 name, and a stream in an import. Refused, saying so.
(component
  (import "wasi:cli/stdout@0.3.0" (instance $stdout
    (export "write-via-stream" (func (param "data" (stream u8)) (result (future (result)))))))
  (core module $m
    (func (export "run") (result i32)
      i32.const 0))
  (core instance $i (instantiate $m))
  (func $run async (result (result))
    (canon lift (core func $i "run")))
  (instance $handler
    (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $handler)))
