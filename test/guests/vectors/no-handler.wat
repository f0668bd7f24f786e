;; A component that no trigger can use: its one export is nobody's contract.
(component
  (core module $m
    (func (export "hello") (result i32)
      i32.const 42))
  (core instance $i (instantiate $m))
  (func (export "hello") (result u32)
    (canon lift (core func $i "hello"))))
