//! A WASI command: a photograph (JPEG or PNG) on stdin, a thumbnail of at most 96x96 as JPEG on stdout.

use image::ImageFormat;
use std::io::{Cursor, Read, Write};

fn main() {
    let mut photo = Vec::new();
    let read = std::io::stdin().read_to_end(&mut photo);
    if let Err(error) = read.map_err(|e| e.to_string()).and_then(|_| thumbnail(&photo)) {
        eprintln!("thumbnail: {error}");
        std::process::exit(1);
    }
}

fn thumbnail(photo: &[u8]) -> Result<(), String> {
    let picture = image::load_from_memory(photo).map_err(|e| e.to_string())?;
    let small = picture.thumbnail(96, 96).to_rgb8();
    let mut out = Cursor::new(Vec::new());
    small.write_to(&mut out, ImageFormat::Jpeg).map_err(|e| e.to_string())?;
    std::io::stdout().write_all(out.get_ref()).map_err(|e| e.to_string())
}
