;; A core module, which is no component: refused, with a hint at how to make one.
(module
  (memory (export "memory") 1)
  (func (export "_start")))
