;; A guest without a language runtime: what a small Rust component imports, and no more.
;; The words in capital letters are filled in by the tests.
(component
  (import "wasi:http/types@VERSION" (instance $types
    (export "fields" (type $fields (sub resource)))
    (export "incoming-request" (type $request (sub resource)))
    (export "outgoing-response" (type $response (sub resource)))
    (export "response-outparam" (type $outparam (sub resource)))
    (type $error (variant (case "internal-error" (option string))))
    (export "error-code" (type $error-code (eq $error)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-response"
      (func (param "headers" (own $fields)) (result (own $response))))
    (export "[method]outgoing-response.set-status-code"
      (func (param "self" (borrow $response)) (param "status-code" u16) (result (result))))
    (export "[static]response-outparam.set"
      (func (param "param" (own $outparam))
            (param "response" (result (own $response) (error $error-code)))))
  ))
  IMPORT
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))
  (core module $libc (memory (export "memory") 1))
  (core instance $libc (instantiate $libc))
  (core func $fields (canon lower (func $types "[constructor]fields")))
  (core func $response (canon lower (func $types "[constructor]outgoing-response")))
  (core func $set-status
    (canon lower (func $types "[method]outgoing-response.set-status-code")))
  (core func $set
    (canon lower (func $types "[static]response-outparam.set") (memory (core memory $libc "memory"))))
  (core module $guest
    (import "libc" "memory" (memory 1))
    (import "host" "fields" (func $fields (result i32)))
    (import "host" "response" (func $response (param i32) (result i32)))
    (import "host" "set-status" (func $set-status (param i32 i32) (result i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i32 i32)))
    (import "host" "extra" (func $extra))
    (func $answer (param $out i32) (param $status i32)
      (local $message i32)
      (local.set $message (call $response (call $fields)))
      (drop (call $set-status (local.get $message) (local.get $status)))
      (call $set (local.get $out) (i32.const 0) (local.get $message)
                 (i32.const 0) (i32.const 0) (i32.const 0)))
    (func (export "handle") (param $request i32) (param $out i32)
      BODY)
  )
  (core instance $guest (instantiate $guest
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "fields" (func $fields))
      (export "response" (func $response))
      (export "set-status" (func $set-status))
      (export "set" (func $set))
      (export "extra" (func $extra))))))
  (type $handle (func (param "request" (own $request)) (param "response-out" (own $outparam))))
  (func $handle (type $handle) (canon lift (core func $guest "handle")))
  (component $incoming-handler
    (import "incoming-request" (type $request (sub resource)))
    (import "response-outparam" (type $outparam (sub resource)))
    (import "handle"
      (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))))
    (export "incoming-request" (type $request))
    (export "response-outparam" (type $outparam))
    (export "handle" (func $handle))
  )
  (instance $incoming-handler (instantiate $incoming-handler
    (with "incoming-request" (type $request))
    (with "response-outparam" (type $outparam))
    (with "handle" (func $handle))))
  (export "wasi:http/incoming-handler@VERSION" (instance $incoming-handler))
)
