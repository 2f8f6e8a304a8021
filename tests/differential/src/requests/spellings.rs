//! The ways to write a request. The first of each table is the plain one; a case takes some of the others.
//!
//! In a text `«t»` is the tool's name, `«m»` the body, `«n»` its length, `«meta»` what a request of 2026-07-28 says of
//! itself, `«ff»` and the like bytes that are no UTF-8.

use crate::answers::spellings::Spelling;

/// The body.
pub const BODIES: &[Spelling] = &[
    (
        "plain",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»","arguments":{}«meta»}}"#,
    ),
    (
        "other_order",
        r#"{"params":{"arguments":{},"name":"«t»"«meta»},"method":"tools/call","id":1,"jsonrpc":"2.0"}"#,
    ),
    ("no_id", r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"«t»"«meta»}}"#),
    (
        "id_null",
        r#"{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    ("id_upper", r#"{"jsonrpc":"2.0","ID":1,"method":"tools/call","params":{"name":"«t»"«meta»}}"#),
    (
        "id_fraction",
        r#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_half",
        r#"{"jsonrpc":"2.0","id":1.5,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_unsafe",
        r#"{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_twenty",
        r#"{"jsonrpc":"2.0","id":12345678901234567890,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_surrogate",
        r#"{"jsonrpc":"2.0","id":"\uD800","method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_true",
        r#"{"jsonrpc":"2.0","id":true,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_array",
        r#"{"jsonrpc":"2.0","id":[1],"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_object",
        r#"{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_empty",
        r#"{"jsonrpc":"2.0","id":"","method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "id_twice",
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    ("jsonrpc_missing", r#"{"id":1,"method":"tools/call","params":{"name":"«t»"«meta»}}"#),
    ("jsonrpc_missing_no_id", r#"{"method":"tools/call","params":{"name":"«t»"«meta»}}"#),
    (
        "jsonrpc_1",
        r#"{"jsonrpc":"1.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_twice",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_twice_first",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_twice_notification",
        r#"{"jsonrpc":"2.0","method":"notifications/x","method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_escaped",
        r#"{"jsonrpc":"2.0","id":1,"m\u0065thod":"t\u006fols\/call","params":{"n\u0061me":"«t»"«meta»}}"#,
    ),
    (
        "method_escaped_twice",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_upper_too",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_upper",
        r#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_value_upper",
        r#"{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_value_space",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call ","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_value_newline",
        r#"{"jsonrpc":"2.0","id":1,"method":"\ntools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_value_nul",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call\u0000x","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_value_long_s",
        r#"{"jsonrpc":"2.0","id":1,"method":"toolſ/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_value_no_id",
        r#"{"jsonrpc":"2.0","method":"TOOLS/CALL","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_array",
        r#"{"jsonrpc":"2.0","id":1,"method":["tools/call"],"params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_name_nul",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method\u0000":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "method_name_space",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"," method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "notification_prefix",
        r#"{"jsonrpc":"2.0","method":"notifications/tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "result_too",
        r#"{"jsonrpc":"2.0","id":1,"result":{},"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "result_too_no_id",
        r#"{"jsonrpc":"2.0","result":{},"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "result_and_upper",
        r#"{"jsonrpc":"2.0","id":1,"result":{},"Method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "error_too",
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""},"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "name_twice",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other","name":"«t»"«meta»}}"#,
    ),
    (
        "name_twice_first",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»","name":"other"«meta»}}"#,
    ),
    (
        "name_upper_too",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other","Name":"«t»"«meta»}}"#,
    ),
    (
        "name_escaped_twice",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other","n\u0061me":"«t»"«meta»}}"#,
    ),
    (
        "name_name_nul",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other","name\u0000":"«t»"«meta»}}"#,
    ),
    (
        "name_name_space",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other","name ":"«t»"«meta»}}"#,
    ),
    (
        "name_null",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":null,"NAME":"«t»"«meta»}}"#,
    ),
    (
        "name_escaped",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«te»"«meta»}}"#,
    ),
    (
        "name_surrogate",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»\ud800"«meta»}}"#,
    ),
    (
        "name_nul",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»\u0000"«meta»}}"#,
    ),
    (
        "params_twice",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other"},"params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "params_twice_first",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»},"params":{"name":"other"}}"#,
    ),
    (
        "params_upper_too",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other"«meta»},"Params":{"name":"«t»"}}"#,
    ),
    ("params_array", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["«t»",{}]}"#),
    ("params_array_no_id", r#"{"jsonrpc":"2.0","method":"tools/call","params":["«t»",{}]}"#),
    ("params_text", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"«t»"}"#),
    (
        "meta_twice",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»,"_meta":{}}}"#,
    ),
    (
        "task",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»","task":{"ttl":1}«meta»}}"#,
    ),
    ("batch", r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»}}]"#),
    (
        "batch_behind_ping",
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"«t»"«meta»}}]"#,
    ),
    (
        "batch_notifications",
        r#"[{"jsonrpc":"2.0","method":"notifications/x"},{"jsonrpc":"2.0","method":"tools/call","params":{"name":"«t»"«meta»}}]"#,
    ),
    (
        "two_messages",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"«meta»}}",
    ),
    (
        "two_messages_joined",
        r#"{"jsonrpc":"2.0","method":"notifications/x"}{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "line_inside",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\",\"params\":{\"x\":\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"}}\n}}",
    ),
    (
        "cr_line_inside",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\",\"params\":{\"x\":\r{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"}}\r}}",
    ),
    (
        "cr_line_in_ping",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"x\":\r{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"}}\r}}",
    ),
    (
        "crlf_line_in_call",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"other\",\"arguments\":{\"x\":\r\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"}}\r\n}«meta»}}",
    ),
    (
        "answer_with_line",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"x\":\r{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"}}\r}}",
    ),
    (
        "bom",
        "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"«meta»}}",
    ),
    (
        "comment",
        r#"/*x*/{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»}}"#,
    ),
    (
        "comment_hides",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"//\n,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"«meta»}}",
    ),
    ("single_quotes", "{'jsonrpc':'2.0','id':1,'method':'tools/call','params':{'name':'«t»'}}"),
    (
        "comma_last",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»},}"#,
    ),
    (
        "nan",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»","arguments":{"a":NaN}«meta»}}"#,
    ),
    (
        "latin1",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»","arguments":{"a":"«e9»"}«meta»}}"#,
    ),
    (
        "damaged_utf8",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»","arguments":{"a":"«ff»"}«meta»}}"#,
    ),
    (
        "damaged_notification",
        r#"{"jsonrpc":"2.0","method":"notifications/x","a":"«ff»","Method":"tools/call","params":{"name":"«t»"}}"#,
    ),
    ("utf16", "«utf16»"),
    ("utf16_bom", "«utf16_bom»"),
    (
        "trailing",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»}}x"#,
    ),
    ("leading", r#"x{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»}}"#),
    (
        "leading_nul",
        "\0{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"«t»\"«meta»}}",
    ),
    (
        "not_closed",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"«meta»}"#,
    ),
    (
        "nested",
        r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»"}«meta»}}"#,
    ),
    (
        "deep",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"«t»","arguments":{"a":«deep»}«meta»}}"#,
    ),
    (
        "prototype",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","__proto__":{"method":"tools/call","params":{"name":"«t»"}}}"#,
    ),
    ("prompt", r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"«t»"«meta»}}"#),
    ("form", r#"method=tools/call&id=1&params={"name":"«t»"}"#),
    ("empty", ""),
];

/// The head and the framing of the body. `«post»` is the request line, `«headers»` all headers but those of framing.
pub const FRAMES: &[Spelling] = &[
    ("plain", "«post»«headers»content-length: «n»\r\n\r\n«m»"),
    ("chunked", "«post»«headers»transfer-encoding: chunked\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n"),
    ("chunked_upper", "«post»«headers»Transfer-Encoding: Chunked\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n"),
    (
        "chunk_extension",
        "«post»«headers»transfer-encoding: chunked\r\n\r\n«h»;a=b;c=\"d\r\n«m»\r\n0\r\n\r\n",
    ),
    (
        "chunk_extension_lf",
        "«post»«headers»transfer-encoding: chunked\r\n\r\n«h»;a\n«m»\r\n0\r\n\r\n",
    ),
    ("chunk_space", "«post»«headers»transfer-encoding: chunked\r\n\r\n«h» \r\n«m»\r\n0\r\n\r\n"),
    (
        "chunk_hex_prefix",
        "«post»«headers»transfer-encoding: chunked\r\n\r\n0x«h»\r\n«m»\r\n0\r\n\r\n",
    ),
    ("chunk_plus", "«post»«headers»transfer-encoding: chunked\r\n\r\n+«h»\r\n«m»\r\n0\r\n\r\n"),
    ("chunk_lf_only", "«post»«headers»transfer-encoding: chunked\n\n«h»\n«m»\n0\n\n"),
    ("chunk_no_crlf", "«post»«headers»transfer-encoding: chunked\r\n\r\n«h»\r\n«m»0\r\n\r\n"),
    (
        "chunk_trailers",
        "«post»«headers»transfer-encoding: chunked\r\n\r\n«h»\r\n«m»\r\n0\r\nx-api-key: none\r\ncontent-length: 3\r\n\r\n",
    ),
    (
        "chunked_twice",
        "«post»«headers»transfer-encoding: chunked, chunked\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n",
    ),
    (
        "chunked_identity",
        "«post»«headers»transfer-encoding: identity, chunked\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n",
    ),
    (
        "chunked_gzip",
        "«post»«headers»transfer-encoding: gzip, chunked\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n",
    ),
    (
        "chunked_not_last",
        "«post»«headers»transfer-encoding: chunked, identity\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n",
    ),
    ("xchunked", "«post»«headers»transfer-encoding: xchunked\r\ncontent-length: «n»\r\n\r\n«m»"),
    (
        "encoding_twice",
        "«post»«headers»transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n",
    ),
    (
        "encoding_underscore",
        "«post»«headers»transfer_encoding: chunked\r\ncontent-length: «n»\r\n\r\n«m»",
    ),
    (
        "encoding_space",
        "«post»«headers»transfer-encoding : chunked\r\ncontent-length: «n»\r\n\r\n«m»",
    ),
    (
        "length_and_chunked",
        "«post»«headers»content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n«h»\r\n«m»\r\n0\r\n\r\n",
    ),
    (
        "chunked_and_length",
        "«post»«headers»transfer-encoding: chunked\r\ncontent-length: «n»\r\n\r\n0\r\n\r\n«second»",
    ),
    ("length_twice", "«post»«headers»content-length: «n»\r\ncontent-length: «n»\r\n\r\n«m»"),
    ("length_twice_other", "«post»«headers»content-length: «n»\r\ncontent-length: 2\r\n\r\n«m»"),
    ("length_list", "«post»«headers»content-length: «n», «n»\r\n\r\n«m»"),
    ("length_plus", "«post»«headers»content-length: +«n»\r\n\r\n«m»"),
    ("length_zeros", "«post»«headers»content-length: 000«n»\r\n\r\n«m»"),
    ("length_space", "«post»«headers»content-length : «n»\r\n\r\n«m»"),
    ("length_folded", "«post»«headers»content-length:\r\n «n»\r\n\r\n«m»"),
    ("length_zero", "«post»«headers»content-length: 0\r\n\r\n«m»"),
    ("length_missing", "«post»«headers»\r\n«m»"),
    ("length_long", "«post»«headers»content-length: «n»9\r\n\r\n«m»"),
    ("header_folded", "«post»«headers»x-a: b\r\n c: d\r\ncontent-length: «n»\r\n\r\n«m»"),
    ("header_nul", "«post»«headers»x-a: b\0c\r\ncontent-length: «n»\r\n\r\n«m»"),
    ("header_lf", "«post»«headers»x-a: b\ncontent-length: «n»\r\n\r\n«m»"),
    ("header_cr", "«post»«headers»x-a: b\rcontent-length: 1\r\ncontent-length: «n»\r\n\r\n«m»"),
    ("all_lf", "«post_lf»«headers_lf»content-length: «n»\n\n«m»"),
    ("pipelined", "«ping»«post»«headers»content-length: «n»\r\n\r\n«m»"),
    ("pipelined_twice", "«post»«headers»content-length: «n»\r\n\r\n«m»«second»"),
    (
        "smuggled_without_key",
        "«ping»POST «path» HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: «n»\r\n\r\n«m»",
    ),
    ("smuggled_in_body", "POST «path» HTTP/1.1\r\n«headers»content-length: «s»\r\n\r\n«second»"),
    ("get_with_body", "GET «path» HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("put", "PUT «path» HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("delete_with_body", "DELETE «path» HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("post_lower", "post «path» HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    (
        "override",
        "GET «path» HTTP/1.1\r\nx-http-method-override: POST\r\n«headers»content-length: «n»\r\n\r\n«m»",
    ),
    ("http10", "POST «path» HTTP/1.0\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("http09", "POST «path»\r\n«m»"),
    ("absolute", "POST http://«host»«path» HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    (
        "absolute_other",
        "POST http://other.example«path» HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»",
    ),
    ("query", "POST «path»?a=b HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("slash", "POST «path»/ HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("dots", "POST /x/..«path» HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("percent", "POST /%6dcp HTTP/1.1\r\n«headers»content-length: «n»\r\n\r\n«m»"),
    ("expect", "«post»«headers»expect: 100-continue\r\ncontent-length: «n»\r\n\r\n«m»"),
    (
        "upgrade",
        "«post»«headers»connection: upgrade\r\nupgrade: h2c\r\ncontent-length: «n»\r\n\r\n«m»",
    ),
    ("leading_crlf", "\r\n\r\n«post»«headers»content-length: «n»\r\n\r\n«m»"),
    ("host_twice", "«post»«headers»host: other.example\r\ncontent-length: «n»\r\n\r\n«m»"),
    (
        "connection_names_key",
        "«post»«headers»connection: x-api-key, mcp-session-id, content-length\r\ncontent-length: «n»\r\n\r\n«m»",
    ),
    ("encoded_told", "«post»«headers»content-encoding: gzip\r\ncontent-length: «n»\r\n\r\n«m»"),
    ("encoded", "«post»«headers»content-encoding: gzip\r\ncontent-length: «z»\r\n\r\n«gzip»"),
    (
        "latin1_told",
        "«post»«headers»content-type: application/json; charset=iso-8859-1\r\ncontent-length: «n»\r\n\r\n«m»",
    ),
];

/// Headers about the protocol.
pub const ERAS: &[Spelling] = &[
    ("none", ""),
    ("session", "mcp-session-id: «session»\r\nmcp-protocol-version: 2025-11-25\r\n"),
    ("version", "mcp-protocol-version: 2025-11-25\r\n"),
    ("new", "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: «called»\r\n"),
    (
        "new_name_other",
        "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: other\r\n",
    ),
    (
        "new_method_other",
        "mcp-protocol-version: 2026-07-28\r\nmcp-method: ping\r\nmcp-name: «called»\r\n",
    ),
    ("new_notification", "mcp-protocol-version: 2026-07-28\r\nmcp-method: notifications/x\r\n"),
    ("new_without", "mcp-protocol-version: 2026-07-28\r\n"),
    (
        "new_twice",
        "mcp-protocol-version: 2026-07-28\r\nmcp-method: ping\r\nmcp-method: tools/call\r\nmcp-name: other\r\nmcp-name: «called»\r\n",
    ),
    ("session_unknown", "mcp-session-id: nobody\r\nmcp-protocol-version: 2025-11-25\r\n"),
    ("session_twice", "mcp-session-id: «session»\r\nmcp-session-id: nobody\r\n"),
    ("resume", "mcp-session-id: «session»\r\nlast-event-id: x\r\n"),
];

/// How the key is shown.
pub const SECRETS: &[Spelling] = &[
    ("header", "x-api-key: «secret»\r\n"),
    ("bearer", "authorization: Bearer «secret»\r\n"),
    ("bearer_lower", "authorization: bearer «secret»\r\n"),
    ("twice", "x-api-key: «secret»\r\nx-api-key: «secret»\r\n"),
    ("open_first", "x-api-key: «open»\r\nx-api-key: «secret»\r\n"),
    ("open_last", "x-api-key: «secret»\r\nx-api-key: «open»\r\n"),
    ("open_bearer", "x-api-key: «secret»\r\nauthorization: Bearer «open»\r\n"),
    ("list", "x-api-key: «secret», «open»\r\n"),
    ("tab", "x-api-key:\t«secret»\t\r\n"),
    ("underscore", "x_api_key: «open»\r\nx-api-key: «secret»\r\n"),
];
