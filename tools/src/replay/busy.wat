;; The function that stands for those of a trace: {"run_us": N, "memory_kib": N, ...} keeps a CPU busy for so many
;; microseconds, after it has touched so much memory, and returns nothing. It reads the two first numbers that follow a
;; colon, and is no JSON parser.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  ;; Page 0: the clock's answer at 0, arguments from 1024 on. The memory to touch begins with page 1.
  (memory (export "memory") 1)

  (func (export "millrace_alloc") (param $bytes i32) (result i32)
    (if (i32.gt_u (local.get $bytes) (i32.const 64512)) (then unreachable))
    (i32.const 1024))

  ;; The monotonic clock, ns.
  (func $now (result i64)
    (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 0)))
    (i64.load (i32.const 0)))

  ;; The number behind the n-th colon (from 1), 0 if there is none.
  (func $number (param $at i32) (param $end i32) (param $nth i32) (result i64)
    (local $byte i32) (local $value i64)
    (block $done
      (loop $look
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (if (i32.eq (local.get $byte) (i32.const 58)) ;; ':'
          (then
            (local.set $nth (i32.sub (local.get $nth) (i32.const 1)))
            (br $look)))
        (br_if $look (i32.ne (local.get $nth) (i32.const 0)))
        (br_if $look (i32.eq (local.get $byte) (i32.const 32)))
        (br_if $done (i32.gt_u (i32.sub (local.get $byte) (i32.const 48)) (i32.const 9)))
        (local.set $value
          (i64.add
            (i64.mul (local.get $value) (i64.const 10))
            (i64.extend_i32_u (i32.sub (local.get $byte) (i32.const 48)))))
        (br $look)))
    (local.get $value))

  ;; Writes one byte into each 4 KiB of so much memory, growing it where it is too small.
  (func $touch (param $kib i64)
    (local $pages i32) (local $at i32) (local $end i32)
    (local.set $pages (i32.wrap_i64 (i64.add (i64.div_u (local.get $kib) (i64.const 64)) (i64.const 1))))
    (if (i32.lt_u (memory.size) (local.get $pages))
      (then
        (if (i32.eq (memory.grow (i32.sub (local.get $pages) (memory.size))) (i32.const -1)) (then unreachable))))
    (local.set $at (i32.const 65536))
    (local.set $end (i32.mul (local.get $pages) (i32.const 65536)))
    (block $done
      (loop $page
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (i32.store8 (local.get $at) (i32.const 1))
        (local.set $at (i32.add (local.get $at) (i32.const 4096)))
        (br $page))))

  (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
    (local $end i32) (local $until i64) (local $turns i32)
    (local.set $end (i32.add (local.get $at) (local.get $bytes)))
    (local.set $until
      (i64.add (call $now)
        (i64.mul (call $number (local.get $at) (local.get $end) (i32.const 1)) (i64.const 1000))))
    (call $touch (call $number (local.get $at) (local.get $end) (i32.const 2)))
    (block $done
      (loop $busy
        (br_if $done (i64.ge_u (call $now) (local.get $until)))
        (local.set $turns (i32.const 200))
        (loop $spin
          (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
          (br_if $spin (local.get $turns)))
        (br $busy)))
    (i64.const 0)))
