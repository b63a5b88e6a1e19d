//! The log on disk.

/// Bytes of a group's header.
pub const GROUP_HEADER_BYTES: usize = 64;

/// The file name of a segment: ten digits and `.seg`, so that names sort as numbers do.
pub fn segment_name(segment: u64) -> String {
    format!("{segment:010}.seg")
}

/// The number of a segment file, `None` if the name is not one of a segment.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}
