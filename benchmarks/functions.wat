;; What a user's functions would be in WebAssembly. Each takes a batch as Arrow has it: where each text begins, and all of
;; them in a row; it writes the same for its results and gives the bytes that they take.
(module
  (memory (export "memory") 1)

  (func $is_letter (param $byte i32) (result i32)
    (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26)))

  ;; Lower case; whatever is no letter of a to z becomes one space; none at either end.
  (func (export "words") (param $rows i32) (param $offsets i32) (param $texts i32) (param $out_offsets i32) (param $out_texts i32) (result i32)
    (local $at i32) (local $end i32) (local $byte i32) (local $to i32) (local $start i32) (local $gap i32)
    (local.set $to (local.get $out_texts))
    (i32.store (local.get $out_offsets) (i32.const 0))
    (block $done
      (loop $row
        (br_if $done (i32.eqz (local.get $rows)))
        (local.set $at (i32.add (local.get $texts) (i32.load (local.get $offsets))))
        (local.set $end (i32.add (local.get $texts) (i32.load offset=4 (local.get $offsets))))
        (local.set $start (local.get $to))
        (local.set $gap (i32.const 0))
        (block $over
          (loop $next
            (br_if $over (i32.ge_u (local.get $at) (local.get $end)))
            (local.set $byte (i32.load8_u (local.get $at)))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 65)) (i32.const 26))
              (then (local.set $byte (i32.or (local.get $byte) (i32.const 32)))))
            (if (call $is_letter (local.get $byte))
              (then
                (if (i32.and (local.get $gap) (i32.gt_u (local.get $to) (local.get $start)))
                  (then
                    (i32.store8 (local.get $to) (i32.const 32))
                    (local.set $to (i32.add (local.get $to) (i32.const 1)))))
                (local.set $gap (i32.const 0))
                (i32.store8 (local.get $to) (local.get $byte))
                (local.set $to (i32.add (local.get $to) (i32.const 1))))
              (else (local.set $gap (i32.const 1))))
            (br $next)))
        (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
        (local.set $offsets (i32.add (local.get $offsets) (i32.const 4)))
        (local.set $out_offsets (i32.add (local.get $out_offsets) (i32.const 4)))
        (i32.store (local.get $out_offsets) (i32.sub (local.get $to) (local.get $out_texts)))
        (br $row)))
    (i32.sub (local.get $to) (local.get $out_texts)))

  ;; The first word without its path and without colons at its end; a word in brackets stays as it is.
  (func (export "program") (param $rows i32) (param $offsets i32) (param $texts i32) (param $out_offsets i32) (param $out_texts i32) (result i32)
    (local $at i32) (local $end i32) (local $byte i32) (local $to i32) (local $from i32) (local $bracket i32)
    (local.set $to (local.get $out_texts))
    (i32.store (local.get $out_offsets) (i32.const 0))
    (block $done
      (loop $row
        (br_if $done (i32.eqz (local.get $rows)))
        (local.set $at (i32.add (local.get $texts) (i32.load (local.get $offsets))))
        (local.set $end (i32.add (local.get $texts) (i32.load offset=4 (local.get $offsets))))
        (local.set $from (local.get $at))
        (local.set $bracket (i32.const 0))
        (if (i32.lt_u (local.get $at) (local.get $end))
          (then (local.set $bracket (i32.eq (i32.load8_u (local.get $at)) (i32.const 91)))))
        (block $over
          (loop $next
            (br_if $over (i32.ge_u (local.get $at) (local.get $end)))
            (local.set $byte (i32.load8_u (local.get $at)))
            (br_if $over (i32.eq (local.get $byte) (i32.const 32)))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (if (i32.and (i32.eq (local.get $byte) (i32.const 47)) (i32.eqz (local.get $bracket)))
              (then (local.set $from (local.get $at))))
            (br $next)))
        (block $trimmed
          (loop $colon
            (br_if $trimmed (local.get $bracket))
            (br_if $trimmed (i32.ge_u (local.get $from) (local.get $at)))
            (br_if $trimmed (i32.ne (i32.load8_u (i32.sub (local.get $at) (i32.const 1))) (i32.const 58)))
            (local.set $at (i32.sub (local.get $at) (i32.const 1)))
            (br $colon)))
        (memory.copy (local.get $to) (local.get $from) (i32.sub (local.get $at) (local.get $from)))
        (local.set $to (i32.add (local.get $to) (i32.sub (local.get $at) (local.get $from))))
        (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
        (local.set $offsets (i32.add (local.get $offsets) (i32.const 4)))
        (local.set $out_offsets (i32.add (local.get $out_offsets) (i32.const 4)))
        (i32.store (local.get $out_offsets) (i32.sub (local.get $to) (local.get $out_texts)))
        (br $row)))
    (i32.sub (local.get $to) (local.get $out_texts)))

  ;; x * x / 2 - 3 * x + 1
  (func (export "polynomial") (param $rows i32) (param $in i32) (param $out i32)
    (local $x f64)
    (block $done
      (loop $row
        (br_if $done (i32.eqz (local.get $rows)))
        (local.set $x (f64.load (local.get $in)))
        (f64.store (local.get $out)
          (f64.add
            (f64.sub
              (f64.div (f64.mul (local.get $x) (local.get $x)) (f64.const 2))
              (f64.mul (f64.const 3) (local.get $x)))
            (f64.const 1)))
        (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
        (local.set $in (i32.add (local.get $in) (i32.const 8)))
        (local.set $out (i32.add (local.get $out) (i32.const 8)))
        (br $row)))))
