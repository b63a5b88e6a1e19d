//! A WASI program that does with its files what its stdin says, a line each, and answers each with a line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    /// The call itself: the C library looks at paths before it asks.
    fn path_open(
        directory: i32,
        lookup: i32,
        path: *const u8,
        bytes: usize,
        how: i32,
        rights: i64,
        inheriting: i64,
        flags: i32,
        out: *mut i32,
    ) -> i32;
    fn fd_read(fd: i32, vectors: *const [usize; 2], count: i32, read: *mut usize) -> i32;
    fn fd_close(fd: i32) -> i32;
}

/// fd_read, fd_seek.
const RIGHTS: i64 = 1 << 1 | 1 << 2;

fn main() {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).expect("stdin is text");
    let mut kept = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let told = act(&words, &mut kept).unwrap_or_else(|error| match error.raw_os_error() {
            Some(number) => format!("error {number}"),
            None => format!("error {error}"),
        });
        println!("{told}");
    }
}

fn act(words: &[&str], kept: &mut Vec<File>) -> io::Result<String> {
    match *words {
        ["read", path] => fs::read_to_string(path),
        ["sum", path] => {
            let bytes = fs::read(path)?;
            let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            Ok(format!("{} {sum}", bytes.len()))
        }
        ["part", path, from, bytes] => {
            let mut file = File::open(path)?;
            let from: i64 = from.parse().expect("a number");
            let at = if from < 0 { SeekFrom::End(from) } else { SeekFrom::Start(from as u64) };
            let at = file.seek(at)?;
            let mut part = vec![0; bytes.parse().expect("a number")];
            file.read_exact(&mut part)?;
            assert_eq!(file.stream_position()?, at + part.len() as u64);
            Ok(String::from_utf8_lossy(&part).into_owned())
        }
        ["list", path] => {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                let mark = if kind.is_dir() { "/" } else if kind.is_symlink() { "@" } else { "" };
                names.push(format!("{}{mark}", entry.file_name().to_string_lossy()));
            }
            names.sort();
            Ok(names.join(" "))
        }
        ["count", path] => Ok(fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?.len().to_string()),
        ["stat", path] => {
            let found = fs::symlink_metadata(path)?;
            let kind = if found.is_dir() { "directory" } else if found.is_symlink() { "link" } else { "file" };
            Ok(format!("{kind} {} {}", found.len(), found.modified().is_ok()))
        }
        ["link", path] => Ok(fs::read_link(path)?.display().to_string()),
        ["open", path] => raw_open(path, 1),
        ["open-here", path] => raw_open(path, 0),
        ["keep", path, times] => {
            for _ in 0..times.parse().expect("a number") {
                kept.push(File::open(path)?);
            }
            Ok(kept.len().to_string())
        }
        ["kept"] => Ok(kept.len().to_string()),
        ["create", path] => File::create(path).map(|_| "created".into()),
        ["append", path] => OpenOptions::new().append(true).open(path)?.write(b"x").map(|_| "written".into()),
        ["both", path] => OpenOptions::new().read(true).write(true).open(path).map(|_| "opened".into()),
        ["write", path] => File::open(path)?.write(b"x").map(|_| "written".into()),
        ["cut", path] => File::open(path)?.set_len(0).map(|()| "cut".into()),
        ["mkdir", path] => fs::create_dir(path).map(|()| "made".into()),
        ["rmdir", path] => fs::remove_dir(path).map(|()| "removed".into()),
        ["remove", path] => fs::remove_file(path).map(|()| "removed".into()),
        ["rename", from, to] => fs::rename(from, to).map(|()| "renamed".into()),
        ["hard-link", from, to] => fs::hard_link(from, to).map(|()| "linked".into()),
        ["variable", name] => Ok(std::env::var(name).unwrap_or("none".into())),
        _ => panic!("what is {words:?}?"),
    }
}

/// Opens a path below the first grant as it stands, and reads what is there.
fn raw_open(path: &str, lookup: i32) -> io::Result<String> {
    let mut fd = -1;
    let mut text = [0_u8; 4096];
    let mut read = 0;
    // SAFETY: all pointers are to live memory of the lengths that stand beside them.
    unsafe {
        let errno = path_open(3, lookup, path.as_ptr(), path.len(), 0, RIGHTS, 0, 0, &mut fd);
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let errno = fd_read(fd, &[text.as_mut_ptr() as usize, text.len()], 1, &mut read);
        fd_close(fd);
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
    }
    Ok(String::from_utf8_lossy(&text[..read]).into_owned())
}
