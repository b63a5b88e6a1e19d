//! Compresses: the reply is the raw deflate stream of the data.

use miniz_oxide::deflate::compress_to_vec;

abi::function!(deflate);

fn deflate(arguments: &[u8]) -> Vec<u8> {
    let (rounds, data) = abi::rounds(arguments);
    let mut reply = Vec::new();
    for _ in 0..rounds {
        reply = compress_to_vec(std::hint::black_box(data), 6);
    }
    reply
}
