//! Messages come back as they were written, whatever they hold; bytes that are no message get an error.

use proptest::prelude::*;
use sandbox::protocol::*;
use sandbox::socket;
use std::os::fd::AsFd;

fn words() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(any::<String>(), 0..6)
}

fn environment() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec((any::<String>(), any::<String>()), 0..6)
}

prop_compose! {
    fn limits()(memory_bytes: u64, memory_high_bytes: u64, cpu_weight: u32, cpu_milli: u32, pids: u32, files: u32,
                tmp_bytes: u64, io_bytes: u64, cpus in proptest::collection::vec(any::<u32>(), 0..4)) -> Limits {
        Limits { memory_bytes, memory_high_bytes, cpu_weight, cpu_milli, cpus, pids, files, tmp_bytes, io_bytes }
    }
}

prop_compose! {
    fn network()(allow in words(), listen in words(), egress_bytes: u64, ingress_bytes: u64) -> Network {
        Network { allow, listen, egress_bytes, ingress_bytes }
    }
}

prop_compose! {
    fn spec()(function: String, tenant: String, bundle: String, stdio: bool, none: bool, strict: bool,
              command in words(), environment in environment(), limits in limits(),
              network in proptest::option::of(network()), devices in words()) -> Spec {
        Spec {
            function, tenant, bundle: bundle.into(), command, environment, limits, network,
            abi: if stdio { Abi::Stdio } else { Abi::RuntimeApi },
            base: if none { Base::None } else { Base::Host },
            tier: if strict { Tier::Strict } else { Tier::Default },
            devices: devices.into_iter().map(Into::into).collect(),
        }
    }
}

fn to_jailer() -> impl Strategy<Value = ToJailer> {
    prop_oneof![
        (any::<u32>(), any::<u32>()).prop_map(|(version, cpu)| ToJailer::Hello { version, cpu }),
        (any::<u64>(), spec()).prop_map(|(sandbox, spec)| ToJailer::Make { sandbox, spec: Box::new(spec) }),
        (any::<u64>(), any::<u64>(), environment()).prop_map(|(sandbox, run, environment)| ToJailer::Run {
            sandbox,
            run,
            environment
        }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(sandbox, grace_ms)| ToJailer::Stop { sandbox, how: Stop::Term { grace_ms } }),
        any::<u64>().prop_map(|sandbox| ToJailer::Stop { sandbox, how: Stop::Kill }),
    ]
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        any::<i32>().prop_map(Ending::Exit),
        any::<i32>().prop_map(Ending::Signal),
        Just(Ending::Oom),
        any::<Option<String>>().prop_map(|name| Ending::Syscall { name }),
        any::<String>().prop_map(|reason| Ending::Exec { reason }),
        any::<String>().prop_map(|reason| Ending::Lost { reason }),
    ]
}

fn from_jailer() -> impl Strategy<Value = FromJailer> {
    let force = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(cgroups, bpf, root)| Force {
        cgroups,
        bpf,
        root,
    });
    let counters = proptest::option::of((any::<u32>(), any::<u32>()))
        .prop_map(|c| c.map(|(rows, row_bytes)| Counters { rows, row_bytes }));
    prop_oneof![
        (any::<u32>(), environment(), force, counters).prop_map(|(version, backends, force, counters)| {
            FromJailer::Hello { version, backends, force, counters }
        }),
        (any::<u64>(), any::<Option<u32>>(), any::<u32>(), any::<bool>(), any::<u64>()).prop_map(
            |(sandbox, index, pid, from_pool, making_ns)| {
                let api = from_pool.then(|| "127.0.0.1:9001".parse().unwrap());
                FromJailer::Made { sandbox, index, pid, api, from_pool, making_ns }
            }
        ),
        (any::<u64>(), any::<String>(), any::<bool>())
            .prop_map(|(sandbox, reason, is_host)| FromJailer::Failed { sandbox, reason, is_host }),
        (any::<u64>(), any::<u64>(), ending(), any::<u64>(), any::<u64>()).prop_map(
            |(sandbox, run, ending, peak_memory_bytes, cpu_ns)| FromJailer::Ended {
                sandbox,
                run,
                ending,
                peak_memory_bytes,
                cpu_ns
            }
        ),
        (any::<u64>(), ending(), any::<u64>(), any::<u64>()).prop_map(
            |(sandbox, ending, peak_memory_bytes, cpu_ns)| FromJailer::Exited {
                sandbox,
                ending,
                peak_memory_bytes,
                cpu_ns
            }
        ),
        (any::<u64>(), any::<String>())
            .prop_map(|(sandbox, attempt)| FromJailer::Denied { sandbox, attempt }),
        (any::<u32>(), any::<u32>()).prop_map(|(memory_some_permille, memory_full_permille)| {
            FromJailer::Pressure { memory_some_permille, memory_full_permille }
        }),
    ]
}

proptest! {
    #[test]
    fn what_a_core_says_comes_back(message in to_jailer()) {
        prop_assert_eq!(decode::<ToJailer>(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn what_the_jailer_says_comes_back(message in from_jailer()) {
        prop_assert_eq!(decode::<FromJailer>(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn bytes_that_are_no_message_get_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode::<ToJailer>(&bytes).is_err() || std::str::from_utf8(&bytes).is_ok());
        bytes.insert(0, b'!');
        prop_assert!(decode::<FromJailer>(&bytes).is_err());
    }

    #[test]
    fn a_message_that_was_cut_gets_an_error(message in to_jailer(), part in 0.0..1.0f64) {
        let bytes = encode(&message).unwrap();
        let cut = (bytes.len() as f64 * part) as usize;
        prop_assert!(decode::<ToJailer>(&bytes[..cut]).is_err());
    }

    #[test]
    fn a_checked_spec_holds_no_text_that_c_cannot_hold(spec in spec()) {
        if spec.check().is_ok() {
            prop_assert!(spec.bundle.is_absolute());
            let texts = spec.command.iter().chain(spec.environment.iter().flat_map(|(n, v)| [n, v]));
            prop_assert!(texts.into_iter().all(|text| std::ffi::CString::new(text.as_str()).is_ok()));
        }
    }
}

fn good() -> Spec {
    Spec { bundle: "/bundle".into(), ..Spec::default() }
}

#[test]
fn the_largest_environment_goes_through_and_more_is_refused_clearly() {
    let mut spec = good();
    spec.environment = vec![("A".into(), "x".repeat(WORDS_BYTES_MAX))];
    spec.command = vec!["y".repeat(WORDS_BYTES_MAX)];
    spec.check().unwrap();
    let message = ToJailer::Make { sandbox: 1, spec: Box::new(spec.clone()) };
    assert_eq!(decode::<ToJailer>(&encode(&message).unwrap()).unwrap(), message);
    spec.environment[0].1.push('x');
    let told = spec.check().unwrap_err().to_string();
    assert!(told.contains("environment: has 32769 bytes, at most 32768"), "{told}");
    // Six bytes each in JSON.
    spec.environment[0].1 = "\u{1}".repeat(WORDS_BYTES_MAX);
    spec.check().unwrap();
    let told = encode(&ToJailer::Make { sandbox: 1, spec: Box::new(spec) }).unwrap_err().to_string();
    assert!(told.contains("shorten command and environment"), "{told}");
}

#[test]
fn a_spec_that_cannot_be_is_refused() {
    let told = |change: fn(&mut Spec)| {
        let mut spec = good();
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    };
    assert!(told(|s| s.bundle = "relative".into()).contains("not an absolute path"));
    assert!(told(|s| s.environment = vec![("A=B".into(), String::new())]).contains("`A=B` is not"));
    assert!(told(|s| s.environment = vec![("A".into(), "\0".into())]).contains("zero byte"));
    assert!(told(|s| s.command = vec![String::new(); WORDS_MAX + 1]).contains("257 entries"));
    assert!(told(|s| s.limits.cpus = vec![0; WORDS_MAX + 1]).contains("limits.cpus"));
    assert!(told(|s| s.devices = vec!["kvm".into()]).contains("absolute"));
}

#[test]
fn messages_and_descriptors_pass_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = socket::listen_at(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let client = socket::connect_to(&path).unwrap();
    let accepted = nix::sys::socket::accept(std::os::fd::AsRawFd::as_raw_fd(&listener)).unwrap();
    // SAFETY: the kernel has just made it.
    let server: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(accepted) };
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let longest = vec![7; MESSAGE_BYTES_MAX];
    socket::send(client.as_fd(), &longest, &[writer.as_fd()]).unwrap();
    drop(writer);
    let mut buffer = Vec::new();
    let descriptors = socket::receive(server.as_fd(), &mut buffer).unwrap().unwrap();
    assert_eq!((buffer.len(), descriptors.len()), (MESSAGE_BYTES_MAX, 1));
    nix::unistd::write(&descriptors[0], b"x").unwrap();
    let mut byte = [0];
    nix::unistd::read(&reader, &mut byte).unwrap();
    assert_eq!(byte, *b"x");
    drop(client);
    assert!(socket::receive(server.as_fd(), &mut buffer).unwrap().is_none(), "the end is seen");
}
