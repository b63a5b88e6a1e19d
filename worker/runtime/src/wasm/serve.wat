;; The loop that serves a warm instance of the fast ABI, on one fiber for the instance's life.
;; A call is then one switch to the fiber and back, with direct calls between wasm functions on it, and nothing
;; on the way allocates. Compiled into serve.wasm, which a test holds equal to this text.
(module
  (import "core" "take" (func $take (result i32)))      ;; bytes of the call's payload
  (import "core" "fill" (func $fill (param i32)))       ;; copies the payload there
  (import "core" "done" (func $done (param i64)))       ;; takes the reply, and lets the slice end
  (import "guest" "alloc" (func $alloc (param i32) (result i32)))
  (import "guest" "call" (func $call (param i32 i32) (result i64)))
  ;; Entering a function checks the slice: this is where the fiber waits for the next call.
  (func $pause)
  (func (export "serve")
    (local $bytes i32) (local $at i32)
    (loop $next
      (local.set $bytes (call $take))
      (local.set $at (call $alloc (local.get $bytes)))
      (call $fill (local.get $at))
      (call $done (call $call (local.get $at) (local.get $bytes)))
      (call $pause)
      (br $next))))
