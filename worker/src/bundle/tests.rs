//! Of bundles, mostly hostile ones.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::SystemTime;
use tar::{Builder, EntryType, Header};

/// An entry as the attacker writes it: nothing of it is checked by the tar crate.
#[derive(Clone, Debug)]
struct Raw {
    kind: EntryType,
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    bytes: Vec<u8>,
}

fn raw(kind: EntryType, name: &str, link: &str) -> Raw {
    Raw { kind, name: name.into(), link: link.into(), mode: 0o644, bytes: Vec::new() }
}

fn file(name: &str, mode: u32, text: &str) -> Raw {
    Raw { mode, bytes: text.into(), ..raw(EntryType::Regular, name, "") }
}

fn dir(name: &str) -> Raw {
    raw(EntryType::Directory, name, "")
}

fn link(name: &str, target: &str) -> Raw {
    raw(EntryType::Symlink, name, target)
}

fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_size(entry.bytes.len() as u64);
        let old = header.as_old_mut();
        let (name, link) = (entry.name.len().min(100), entry.link.len().min(100));
        old.name[..name].copy_from_slice(&entry.name[..name]);
        old.linkname[..link].copy_from_slice(&entry.link[..link]);
        header.set_cksum();
        builder.append(&header, &entry.bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A cache, and a directory around it in which nothing may change.
struct Ground {
    around: tempfile::TempDir,
}

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

impl Ground {
    fn new() -> Ground {
        let around = tempfile::tempdir().unwrap();
        fs::create_dir(around.path().join("cache")).unwrap();
        fs::create_dir(around.path().join("outside")).unwrap();
        fs::write(around.path().join("outside/secret"), "secret").unwrap();
        Ground { around }
    }

    fn cache(&self) -> PathBuf {
        self.around.path().join("cache")
    }

    fn bundle(&self) -> PathBuf {
        directory(&self.cache(), HASH)
    }

    /// Unpacks, and looks around.
    fn unpack(&self, bundle: &[u8]) -> Result<Contents, BundleError> {
        let inspected = inspect(bundle);
        let unpacked = unpack(&self.cache(), HASH, bundle);
        assert_eq!(
            inspected.as_ref().ok(),
            unpacked.as_ref().ok(),
            "what is refused here is refused at deployment"
        );
        self.check(unpacked.as_ref().ok());
        unpacked
    }

    /// Nothing is outside, nothing is left over, and the bundle is as it says.
    fn check(&self, contents: Option<&Contents>) {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.around.path()), ["cache", "outside"], "something was made outside");
        assert_eq!(names(&self.around.path().join("outside")), ["secret"], "something was made outside");
        assert_eq!(fs::read_to_string(self.around.path().join("outside/secret")).unwrap(), "secret");
        let expected =
            if contents.is_some() { vec![HASH.to_owned(), format!("{HASH}.json")] } else { vec![] };
        assert_eq!(names(&self.cache().join("bundles")), expected, "something was left over");
        let found = ensure(&self.cache(), HASH).unwrap();
        assert_eq!(found.as_ref(), contents);
        for (path, item) in contents.iter().flat_map(|contents| &contents.items) {
            let is = fs::symlink_metadata(self.bundle().join(path)).unwrap();
            match item {
                Item::Link(_) => assert!(is.is_symlink()),
                Item::Directory => assert_eq!((is.is_dir(), is.mode() & 0o7777), (true, 0o755)),
                Item::File { executable, bytes, .. } => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    assert_eq!((is.is_file(), is.mode() & 0o7777, is.len()), (true, mode, *bytes));
                }
            }
            let inside = fs::canonicalize(self.bundle()).unwrap();
            if let Ok(leads) = fs::canonicalize(self.bundle().join(path)) {
                assert!(leads.starts_with(&inside), "{path} leads to {}", leads.display());
            }
        }
    }
}

fn told(entries: &[Raw]) -> String {
    Ground::new().unpack(&tar(entries)).unwrap_err().to_string()
}

#[test]
fn a_bundle_is_unpacked_as_it_was_packed() {
    let entries = [
        dir("./"),
        file("./bootstrap", 0o4775, "#!/bin/sh\n"),
        file("lib/deep/a.py", 0o600, "pass"),
        dir("empty/"),
        link("lib/b.py", "deep/./a.py"),
        link("dangling", "lib/none"),
        raw(EntryType::XGlobalHeader, "pax_global_header", ""),
    ];
    for bundle in [tar(&entries), gzip(&tar(&entries))] {
        let ground = Ground::new();
        let contents = ground.unpack(&bundle).unwrap();
        let names: Vec<&str> = contents.items.keys().map(String::as_str).collect();
        assert_eq!(names, ["bootstrap", "dangling", "empty", "lib", "lib/b.py", "lib/deep", "lib/deep/a.py"]);
        assert_eq!(contents.bytes(), 14);
        assert_eq!(fs::read_to_string(ground.bundle().join("lib/b.py")).unwrap(), "pass");
        let mode = |name| fs::metadata(ground.bundle().join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("bootstrap"), mode("lib/deep/a.py"), mode("")), (0o755, 0o644, 0o755));
    }
    assert_eq!(Ground::new().unpack(&tar(&[])).unwrap(), Contents::default());
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let long = format!("{}/{}/file", "a".repeat(120), "b".repeat(200));
    let mut gnu = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    gnu.append_data(&mut header, &long, &b"hi"[..]).unwrap();
    let mut pax = Builder::new(Vec::new());
    pax.append_pax_extensions([("path", long.as_bytes()), ("comment", b"x")]).unwrap();
    header.set_cksum();
    pax.append(&header, &b"hi"[..]).unwrap();
    for bundle in [gnu.into_inner().unwrap(), pax.into_inner().unwrap()] {
        assert!(Ground::new().unpack(&bundle).unwrap().items.contains_key(&long));
    }
}

#[test]
fn what_would_escape_is_refused_and_told() {
    for (entries, expected) in [
        (vec![file("../x", 0o644, "")], "holds an entry \"../x\", whose name holds `..`"),
        (vec![file("a/../../x", 0o644, "")], "whose name holds `..`"),
        (vec![file("/etc/x", 0o644, "")], "whose name is absolute"),
        (vec![file("a\nb", 0o644, "")], "holds a control character"),
        (vec![Raw { name: vec![0xff], ..file("", 0o644, "") }], "is not UTF-8"),
        (vec![file("", 0o644, "")], "is empty"),
        (vec![link("l", "/etc")], "holds a symbolic link \"l\" to \"/etc\""),
        (vec![link("l", "..")], "does not lead to a place inside"),
        (vec![link("a/l", "../../outside")], "does not lead to a place inside"),
        (vec![link("l", "")], "does not lead to a place inside"),
        (vec![link("l", "l")], "does not lead to a place inside"),
        (vec![link("l", "m/../.."), dir("m")], "does not lead to a place inside"),
        // `deep/up` is the top, above which the second one leads: its text alone does not show it.
        (vec![link("deep/up", ".."), link("l", "deep/up/../outside")], "link \"l\""),
        (vec![link("l", "."), file("l/x", 0o644, "")], "\"l\" twice, or below something"),
        (vec![link("l", "a"), file("l", 0o644, "")], "\"l\" twice"),
        (vec![file("a", 0o644, ""), file("a/b", 0o644, "")], "below something that is no directory"),
        (vec![file("a", 0o644, ""), file("./a", 0o644, "")], "twice"),
        (vec![file("a/b", 0o644, ""), link("a", "c")], "twice"),
        (
            vec![file("a", 0o644, ""), raw(EntryType::Link, "h", "a")],
            "holds \"h\", a hard link; pack it with",
        ),
        (vec![raw(EntryType::Link, "h", "../outside/secret")], "a hard link"),
        (vec![raw(EntryType::Char, "c", "")], "a device"),
        (vec![raw(EntryType::Block, "c", "")], "a device"),
        (vec![raw(EntryType::Fifo, "c", "")], "a named pipe"),
        (vec![raw(EntryType::GNUSparse, "c", "")], "a sparse file"),
        (vec![raw(EntryType::new(b'Z'), "c", "")], "an entry of an unknown kind"),
    ] {
        let text = told(&entries);
        assert!(text.contains(expected), "{entries:?}: {text}");
    }
}

#[test]
fn what_would_deceive_the_reader_is_refused() {
    let pax = |key: &str, value: &str| {
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions([(key, value.as_bytes())]).unwrap();
        let mut archive = builder.into_inner().unwrap();
        archive.truncate(1024);
        archive.extend(tar(&[file("a", 0o644, "hello")]));
        archive
    };
    for (bundle, expected) in [
        (pax("size", "1"), "size stands in an extension header"),
        (pax("path", "../x"), "holds `..`"),
        (pax("GNU.sparse.major", "1"), "sparse file"),
        (tar(&[raw(EntryType::GNULongName, "././@LongLink", "")]), ""),
        (
            tar(&[Raw { bytes: vec![b'a'; 20 << 10], ..raw(EntryType::GNULongName, "", "") }]),
            "extension header has 20480",
        ),
        (b"PK\x03\x04 a zip file".repeat(100), "is not a sound tar"),
        (b"\x1f\x8b damaged".to_vec(), "is not a sound tar"),
        (gzip(&tar(&[file("a", 0o644, &"x".repeat(5000))]))[..40].to_vec(), "is not a sound tar"),
        (tar(&[file("a", 0o644, &"x".repeat(5000))])[..1000].to_vec(), "ends within \"a\""),
    ] {
        match Ground::new().unpack(&bundle) {
            Err(error) => assert!(error.to_string().contains(expected), "{expected}: {error}"),
            Ok(contents) => {
                assert!(expected.is_empty() && contents.items.is_empty(), "{expected}: {contents:?}")
            }
        }
    }
}

/// A gzip of a tar whose one file has as many bytes as the whole may have: half a megabyte when packed.
#[test]
fn bombs_are_defused() {
    let mut header = Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..=BUNDLE_BYTES_MAX >> 20).for_each(|_| encoder.write_all(&zeros).unwrap());
    let error = inspect(&encoder.finish().unwrap()).unwrap_err();
    assert!(matches!(error, BundleError::TooLarge), "{error}");

    // Few entries, many directories.
    let deep = |n: usize| file(&format!("{n}{}", "/a".repeat(45)), 0o644, "");
    let many: Vec<Raw> = (0..BUNDLE_ENTRIES_MAX / 40).map(deep).collect();
    assert!(matches!(inspect(&tar(&many)), Err(BundleError::TooMany)));
    let empty: Vec<Raw> = vec![raw(EntryType::XGlobalHeader, "g", ""); 3 * BUNDLE_ENTRIES_MAX + 1];
    assert!(matches!(inspect(&tar(&empty)), Err(BundleError::TooMany)));

    // Links of links, each twice as long a way as the one before.
    let doubling = |n: usize| link(&format!("l{n}"), &format!("l{0}/../l{0}/../l{0}", n + 1));
    let tangle: Vec<Raw> = (0..30).map(doubling).collect();
    assert!(matches!(inspect(&tar(&tangle)), Err(BundleError::Link(..))));
}

#[test]
fn a_damaged_bundle_is_found_and_unpacked_again() {
    let bundle = tar(&[dir("d"), file("d/a", 0o755, "hello"), link("l", "d/a")]);
    let ground = Ground::new();
    let contents = ground.unpack(&bundle).unwrap();
    let at = |name: &str| ground.bundle().join(name);
    let damages: [(&str, &dyn Fn()); 9] = [
        ("a file is gone", &|| fs::remove_file(at("d/a")).unwrap()),
        ("a file is longer", &|| fs::write(at("d/a"), "hello, you").unwrap()),
        ("a file has other bytes", &|| fs::write(at("d/a"), "hallo").unwrap()),
        ("a file has another mode", &|| {
            fs::set_permissions(at("d/a"), fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        ("a link leads elsewhere", &|| {
            fs::remove_file(at("l")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", at("l")).unwrap();
        }),
        ("something is there too", &|| fs::write(at("d/new"), "").unwrap()),
        ("a directory is a file", &|| {
            fs::remove_dir_all(at("d")).unwrap();
            fs::write(at("d"), "").unwrap();
        }),
        ("the listing is torn", &|| {
            let list = ground.cache().join(format!("bundles/{HASH}.json"));
            fs::write(&list, &fs::read(&list).unwrap()[..20]).unwrap();
        }),
        ("all is gone", &|| fs::remove_dir_all(ground.bundle()).unwrap()),
    ];
    for (what, damage) in damages {
        damage();
        assert_eq!(ensure(&ground.cache(), HASH).unwrap(), None, "{what}");
        assert_eq!(ground.unpack(&bundle).unwrap(), contents, "{what}");
    }
}

#[test]
fn after_another_boot_every_byte_is_compared() {
    let ground = Ground::new();
    ground.unpack(&tar(&[file("a", 0o644, "hello")])).unwrap();
    // What a power cut may leave: length and times are there, the bytes are not.
    let path = ground.bundle().join("a");
    fs::write(&path, "\0\0\0\0\0").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert!(ensure(&ground.cache(), HASH).unwrap().is_some(), "in the same boot the times are believed");
    let list = ground.cache().join(format!("bundles/{HASH}.json"));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = fs::read_to_string(&list).unwrap().replace(boot.trim(), "another boot");
    fs::write(&list, &other).unwrap();
    assert_eq!(ensure(&ground.cache(), HASH).unwrap(), None);

    ground.unpack(&tar(&[file("a", 0o644, "hello")])).unwrap();
    fs::write(&list, &other).unwrap();
    assert!(ensure(&ground.cache(), HASH).unwrap().is_some());
    assert!(fs::read_to_string(&list).unwrap().contains(boot.trim()), "compared once a boot");
}

#[test]
fn what_was_left_half_done_is_swept_away() {
    let ground = Ground::new();
    ground.unpack(&tar(&[file("a", 0o644, "hello")])).unwrap();
    let bundles = ground.cache().join("bundles");
    fs::create_dir_all(bundles.join(".new-1-x/deep")).unwrap();
    fs::write(bundles.join(".1-x.json"), "").unwrap();
    sweep(&ground.cache());
    assert_eq!(fs::read_dir(&bundles).unwrap().count(), 2);
    sweep(Path::new("/nonexistent"));
}

#[test]
fn a_command_that_cannot_start_is_told() {
    let contents = inspect(&tar(&[
        file("bootstrap", 0o755, ""),
        file("app.py", 0o644, ""),
        dir("bin"),
        link("bin/run", "../bootstrap"),
    ]))
    .unwrap();
    let check = |program: &str, base: Base| {
        let spec = ProcessSpec { command: vec![program.into()], base, ..ProcessSpec::default() };
        contents.check_command(&spec).map_err(|error| error.to_string())
    };
    for program in
        ["./bootstrap", "/var/task/bootstrap", "bin/run", "./bin/../bin/run", "python3", "/usr/bin/env"]
    {
        assert_eq!(check(program, Base::Host), Ok(()), "{program}");
    }
    assert_eq!(check("bootstrap", Base::None), Ok(()));
    for (program, base, expected) in [
        ("./app.py", Base::Host, "`app.py` is not executable; `chmod +x` it"),
        ("./bin", Base::Host, "`bin` is a directory"),
        ("./boot", Base::Host, "`boot` is not in it; correct `command`"),
        ("/var/task/boot", Base::Host, "`boot` is not in it"),
        ("python3", Base::None, "`python3` is not in it"),
    ] {
        let error = check(program, base).unwrap_err();
        assert!(error.contains(expected), "{program}: {error}");
    }
}

#[test]
#[should_panic(expected = "something was made outside")]
fn canary_what_is_made_outside_is_seen() {
    let ground = Ground::new();
    fs::create_dir(ground.cache().join("bundles")).unwrap();
    fs::write(ground.around.path().join("outside/x"), "").unwrap();
    ground.check(None);
}

#[test]
#[should_panic(expected = "leads to")]
fn canary_a_link_that_leads_outside_is_seen() {
    let ground = Ground::new();
    ground.unpack(&tar(&[link("l", "a")])).unwrap();
    let leads = Contents { items: [("l".to_owned(), Item::Link("../../../outside".into()))].into() };
    fs::remove_file(ground.bundle().join("l")).unwrap();
    std::os::unix::fs::symlink("../../../outside", ground.bundle().join("l")).unwrap();
    let list = ground.cache().join(format!("bundles/{HASH}.json"));
    let text = fs::read_to_string(&list).unwrap().replace("\"link\":\"a\"", "\"link\":\"../../../outside\"");
    fs::write(&list, text).unwrap();
    ground.check(Some(&leads));
}

fn names() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => "[abc]", 1 => Just("..".to_owned()), 1 => Just(".".to_owned()), 1 => Just(String::new())];
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn entries() -> impl Strategy<Value = Raw> {
    let kind = proptest::sample::select(b"0000005522221734567LKxgSZ\0".to_vec());
    (kind, names(), names(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(kind, name, link, mode, bytes)| {
            let is_file = matches!(kind, b'0' | b'L' | b'K' | b'x');
            let bytes = if is_file { bytes } else { Vec::new() };
            Raw { kind: EntryType::new(kind), name: name.into(), link: link.into(), mode: mode.into(), bytes }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn hostile_archives_stay_inside(entries in proptest::collection::vec(entries(), 0..12)) {
        let _ = Ground::new().unpack(&tar(&entries));
    }

    #[test]
    fn harmless_names_are_unpacked(names in proptest::collection::btree_set("[a-c]{1,2}(/[d-f]{1,2}){0,3}/x[a-c]", 0..12)) {
        let entries: Vec<Raw> = names.iter().map(|name| file(name, 0o644, name)).collect();
        let ground = Ground::new();
        ground.unpack(&tar(&entries)).unwrap();
        for name in &names {
            prop_assert_eq!(&fs::read_to_string(ground.bundle().join(name)).unwrap(), name);
        }
    }

    #[test]
    fn damaged_archives_are_read_or_refused(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        packed in any::<bool>(),
    ) {
        let mut bundle = tar(&[dir("d"), file("d/a", 0o755, "hello"), link("l", "d/a"), file("b", 0o644, "x")]);
        if packed {
            bundle = gzip(&bundle);
        }
        changes.iter().for_each(|(at, to)| *at.get_mut(&mut bundle) = *to);
        let _ = Ground::new().unpack(&bundle);
    }
}
