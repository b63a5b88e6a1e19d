//! Granted directories: what a program reads there, and all that it must not reach, change or hold up.

use crate::stage::Stage;
use call::{FunctionId, FunctionSpec, Status};
use nix::errno::Errno;
use nix::fcntl::readlink;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use proptest::prelude::*;
use runtime::wasm::files::{Allowed, OPEN_MAX, Wanted, open_below};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The guest: one file, built as a user would.
fn guest() -> &'static [u8] {
    static GUEST: OnceLock<Vec<u8>> = OnceLock::new();
    GUEST.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/files.rs");
        let wasm = Path::new(env!("CARGO_TARGET_TMPDIR")).join("files.wasm");
        let built = Command::new("rustc")
            .args(["--edition=2024", "--target=wasm32-wasip1", "-O", "-o"])
            .args([&wasm, &source])
            .output()
            .expect("rustc runs");
        let told = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "is the target there? `rustup target add wasm32-wasip1`: {told}");
        fs::read(&wasm).unwrap()
    })
}

/// What is not granted.
const SECRET: &str = "the secret";

/// A host: `open` may be granted, `secret` lies beside it.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let open_to_all = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        open_to_all(folder.path());
        let world = World { folder };
        world.write("secret", SECRET);
        world.write("open/hello", "hello, reader");
        world.write("open/inner/deep/file", "deep");
        world.write("open/other/file", "other");
        let at = |path: &str| world.at(path);
        symlink("inner/deep", at("open/link-in")).unwrap();
        symlink("../hello", at("open/inner/link-up")).unwrap();
        symlink("../secret", at("open/link-out")).unwrap();
        symlink("../..", at("open/inner/link-dir-out")).unwrap();
        symlink(at("secret"), at("open/link-absolute")).unwrap();
        symlink("/proc/self/root", at("open/link-root")).unwrap();
        symlink("loop", at("open/loop")).unwrap();
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn text(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    /// A core on which all of this may be granted.
    fn stage(&self, files: u32) -> Stage {
        let allowed = Allowed::new(vec![self.folder.path().into()]);
        Stage::with(
            |options| (options.files_allowed, options.files) = (allowed, files),
            tempfile::tempdir().unwrap(),
        )
    }

    /// The guest with a grant of `open` as `/data`, and one of `open/other` as `/other/place`.
    fn deploy(&self, stage: &mut Stage) -> FunctionId {
        let grants = [("/data", "open"), ("/other/place", "open/other")];
        let files = grants.map(|(name, path)| (name.into(), self.text(path))).into();
        let mut spec = FunctionSpec { files, ..FunctionSpec::default() };
        spec.process.environment.insert("LEVEL".into(), "debug".into());
        stage.deploy_as(guest(), spec)
    }

    /// What the guest answers, line by line.
    fn ask(&self, stage: &mut Stage, function: FunctionId, lines: &[&str]) -> Vec<String> {
        let told = stage.call(function, lines.join("\n").as_bytes());
        assert_eq!(told.status, Status::Ok, "{}", told.stderr);
        String::from_utf8(told.output).unwrap().lines().map(String::from).collect()
    }
}

/// Asks each question and compares each answer.
fn asked(answers: &[(&str, &str)]) {
    let world = World::new();
    let mut stage = world.stage(100);
    let function = world.deploy(&mut stage);
    let questions: Vec<&str> = answers.iter().map(|(question, _)| *question).collect();
    let told = world.ask(&mut stage, function, &questions);
    for ((question, expected), told) in answers.iter().zip(&told) {
        assert_eq!(told, expected, "{question}");
    }
    assert_eq!(told.len(), answers.len());
}

#[test]
fn a_program_reads_what_it_was_granted() {
    asked(&[
        ("read /data/hello", "hello, reader"),
        ("part /data/hello 7 4", "read"),
        ("part /data/hello -6 6", "reader"),
        ("read /data/inner/deep/file", "deep"),
        ("read /data/inner/../hello", "hello, reader"),
        ("read /data/link-in/file", "deep"),
        ("read /data/inner/link-up", "hello, reader"),
        ("read /other/place/file", "other"),
        ("list /data/inner", "deep/ link-dir-out@ link-up@"),
        ("list /other/place", "file"),
        ("stat /data/hello", "file 13 true"),
        ("stat /data/link-in", "link 10 true"),
        ("link /data/link-in", "inner/deep"),
        ("read /data/nothing", "error 44"),
        ("read /data/hello/x", "error 54"),
        ("read /data/loop", "error 32"),
        ("list /data/hello", "error 54"),
        ("variable LEVEL", "debug"),
        ("variable MILLRACE_ATTEMPT", "2"),
        ("variable HOME", "none"),
    ]);
}

/// Everything that could be longer than one answer of the kernel.
#[test]
fn long_files_and_directories_are_read_to_their_end() {
    let world = World::new();
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    world.write("open/long", &long);
    let many = world.at("open/many");
    fs::create_dir(&many).unwrap();
    (0..5000)
        .for_each(|n| drop(fs::File::create(many.join(format!("{n}-{}", "x".repeat(n % 200)))).unwrap()));
    let mut stage = world.stage(100);
    let function = world.deploy(&mut stage);
    let sum = long.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let told = stage.call(function, b"sum /data/long\ncount /data/many");
    assert_eq!(told.status, Status::Ok, "{}", told.stderr);
    assert_eq!(String::from_utf8_lossy(&told.output), format!("3000000 {sum}\n5000\n"));
    assert!(told.yields > 0, "others had their turn meanwhile");
}

#[test]
fn no_path_leads_out() {
    asked(&[
        ("open hello", "hello, reader"),
        ("open ../secret", "error 63"),
        ("open inner/../../secret", "error 63"),
        ("open inner/link-dir-out/secret", "error 63"),
        ("open link-out", "error 63"),
        ("open-here link-out", "error 32"),
        ("open link-absolute", "error 63"),
        ("open link-root/etc/passwd", "error 63"),
        ("open /etc/passwd", "error 63"),
        ("open /proc/self/environ", "error 63"),
        ("open ..", "error 63"),
        ("open .", "error 31"),
        ("open ", "error 44"),
        ("read /data/../secret", "error 63"),
        ("read /etc/passwd", "error 44"),
        ("stat /data/../secret", "error 63"),
        ("list /data/inner/link-dir-out", "error 63"),
        ("read /other/place/../hello", "error 63"),
    ]);
}

#[test]
fn nothing_can_be_changed() {
    let world = World::new();
    let mut stage = world.stage(100);
    let function = world.deploy(&mut stage);
    fs::set_permissions(world.at("open"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(world.at("open/hello"), fs::Permissions::from_mode(0o666)).unwrap();
    for (question, expected) in [
        ("create /data/new", "error 69"),
        ("create /data/hello", "error 69"),
        ("append /data/hello", "error 69"),
        ("both /data/hello", "error 69"),
        ("write /data/hello", "error 8"),
        ("cut /data/hello", "error 69"),
        ("mkdir /data/new", "error 69"),
        ("rmdir /data/other", "error 69"),
        ("remove /data/hello", "error 69"),
        ("rename /data/hello /data/new", "error 69"),
        ("hard-link /data/hello /data/new", "error 69"),
    ] {
        assert_eq!(world.ask(&mut stage, function, &[question]), [expected], "{question}");
        assert_eq!(fs::read_to_string(world.at("open/hello")).unwrap(), "hello, reader", "{question}");
        assert!(!world.at("open/new").exists() && world.at("open/other/file").exists(), "{question}");
    }
}

#[test]
fn pipes_sockets_and_devices_are_not_opened() {
    let world = World::new();
    mkfifo(&world.at("open/pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    let _listener = UnixListener::bind(world.at("open/socket")).unwrap();
    let mut stage = world.stage(100);
    let function = world.deploy(&mut stage);
    let told = world.ask(&mut stage, function, &["read /data/pipe", "stat /data/pipe", "read /data/socket"]);
    assert_eq!(told, ["error 2", "file 0 true", "error 2"]);
    // Nobody has ever been at the other end.
    let writer = nix::fcntl::open(
        &world.at("open/pipe"),
        nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_NONBLOCK,
        Mode::empty(),
    );
    assert_eq!(writer.map(drop), Err(Errno::ENXIO));
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root makes a device");
        return;
    }
    let mode = Mode::from_bits_truncate(0o666);
    let zero = nix::sys::stat::makedev(1, 5);
    nix::sys::stat::mknod(&world.at("open/zero"), nix::sys::stat::SFlag::S_IFCHR, mode, zero).unwrap();
    assert_eq!(world.ask(&mut stage, function, &["read /data/zero"]), ["error 2"]);
}

#[test]
fn descriptors_are_bounded_for_a_guest_and_for_a_core() {
    let world = World::new();
    let mut stage = world.stage(100);
    let function = world.deploy(&mut stage);
    // Two are the grants.
    let most = (OPEN_MAX - 2).to_string();
    let hoard = ["keep /data/hello 1000", "kept", "read /data/hello"];
    for _ in 0..3 {
        assert_eq!(world.ask(&mut stage, function, &hoard), ["error 33", &most, "error 33"]);
    }
    let mut stage = world.stage(10);
    let function = world.deploy(&mut stage);
    for _ in 0..3 {
        assert_eq!(world.ask(&mut stage, function, &hoard), ["error 41", "8", "error 41"]);
    }
    let mut stage = world.stage(1);
    let function = world.deploy(&mut stage);
    let told = stage.call(function, b"");
    assert_eq!(told.status, Status::Unavailable);
    assert!(told.stderr.contains("as many files open as they may"), "{}", told.stderr);
}

#[test]
fn what_not_everybody_may_read_is_closed_to_guests_of_root() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: a worker that is not root reads what its user may");
        return;
    }
    let world = World::new();
    world.write("open/private", "x");
    world.write("open/hidden/file", "x");
    let only_owner = |path: &str, mode| {
        fs::set_permissions(world.at(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    only_owner("open/private", 0o640);
    only_owner("open/hidden", 0o700);
    let mut stage = world.stage(100);
    let function = world.deploy(&mut stage);
    let questions =
        ["read /data/private", "read /data/hidden/file", "stat /data/hidden/file", "list /data/hidden"];
    assert_eq!(world.ask(&mut stage, function, &questions), ["error 2"; 4]);
    // This thread is who it was.
    assert_eq!(fs::read_to_string(world.at("open/private")).unwrap(), "x");
}

#[test]
fn the_operator_decides_what_may_be_granted() {
    let world = World::new();
    let grant = |path: &str| [("/data".to_owned(), path.to_owned())].into();
    let refused = |allowed: &[&str], path: &str| {
        let allowed = Allowed::new(allowed.iter().map(|path| world.at(path)).collect());
        allowed.check(&grant(path)).expect_err(path)
    };
    let allowed = Allowed::new(vec![world.at("open")]);
    assert_eq!(allowed.check(&grant(&world.text("open"))), Ok(()));
    assert_eq!(allowed.check(&grant(&world.text("open/inner/deep"))), Ok(()));
    assert_eq!(allowed.check(&grant(&world.text("open/link-in"))), Ok(()));
    for (path, expected) in [
        (world.text("secret"), "does not allow (allowed: "),
        (world.text("opener"), "does not allow (allowed: "),
        (world.text("open/../secret"), "does not allow (allowed: "),
        ("/".into(), "does not allow"),
        (world.text("open/inner/link-dir-out"), "leads out of"),
        (world.text("open/nothing"), "No such file"),
        (world.text("open/hello"), "Not a directory"),
    ] {
        let reason = refused(&["open"], &path);
        assert!(reason.contains(expected), "{path}: {reason}");
    }
    assert!(
        refused(&[], "/srv").contains("(allowed: none)")
            && refused(&[], "/srv").contains("--allow-files /srv")
    );
    // A core asks the same again: it may have been started with other words.
    let mut stage = Stage::new();
    let function = world.deploy(&mut stage);
    let told = stage.call(function, b"");
    assert_eq!(told.status, Status::Unavailable);
    assert!(told.stderr.contains("--allow-files"), "{}", told.stderr);
}

/// A module of the fast ABI that was granted nothing sees the manifest's variables, call after call.
#[test]
fn a_warm_instance_keeps_its_variables() {
    let mut stage = Stage::new();
    let module = r#"(module
        (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
        (func (export "millrace_call") (param i32 i32) (result i64)
            (drop (call $sizes (i32.const 0) (i32.const 4)))
            (drop (call $get (i32.const 64) (i32.const 512)))
            (i64.or (i64.const 0x20000000000) (i64.extend_i32_u (i32.load (i32.const 4))))))"#;
    let mut spec = FunctionSpec::default();
    spec.process.environment =
        [("A", "1"), ("B", "")].map(|(name, value)| (name.into(), value.into())).into();
    let function = stage.deploy_as(module, spec);
    for cold in [true, false] {
        let told = stage.call(function, b"x");
        assert_eq!((told.usage.cold, told.output.as_slice()), (cold, &b"A=1\0B=\0"[..]), "{}", told.stderr);
    }
}

/// Opens a path and says what was found there, by the kernel's own name for it.
type Look = fn(&Path, &Path) -> Option<PathBuf>;

fn look(directory: &Path, path: &Path) -> Option<PathBuf> {
    let directory = fs::File::open(directory).unwrap();
    let (found, _) = open_below(&directory, path, Wanted { directory: false, follow: true }).ok()?;
    readlink(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd()))).map(PathBuf::from).ok()
}

/// Paths made of all that could lead out find only what lies below.
fn paths_stay_inside(look: Look) {
    let world = World::new();
    let open = fs::canonicalize(world.at("open")).unwrap();
    let parts = [
        "..",
        "..",
        ".",
        "",
        "inner",
        "deep",
        "link-in",
        "link-up",
        "link-out",
        "link-dir-out",
        "link-absolute",
        "link-root",
        "hello",
        "secret",
        "open",
        "etc",
        "passwd",
        "proc",
        "self",
        "cwd",
        "root",
    ];
    let paths = prop::collection::vec(prop::sample::select(parts.to_vec()), 1..6);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let seen = std::cell::Cell::new(0);
    let law = |parts: Vec<&str>| {
        let path = parts.join("/");
        if let Some(found) = look(&open, Path::new(&path)) {
            seen.set(seen.get() + 1);
            prop_assert!(found.starts_with(&open), "{path} led to {}", found.display());
        }
        Ok(())
    };
    runner.run(&paths, law).unwrap();
    assert!(seen.get() > 10, "only {} paths led anywhere", seen.get());
}

#[test]
fn arbitrary_paths_stay_inside() {
    paths_stay_inside(look);
}

#[test]
#[should_panic(expected = "led to")]
fn canary_a_look_up_that_joins_paths_is_caught() {
    paths_stay_inside(|directory, path| fs::canonicalize(directory.join(path)).ok());
}
