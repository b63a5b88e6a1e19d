//! Which devices processes of sandboxes may open.

use crate::harness::{EPERM, Inside, Platform};
use bpf::{Device, Policy, Strangers};

const DEFAULT: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

#[test]
fn only_default_and_granted_devices_are_opened() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    for path in DEFAULT {
        assert_eq!(inside.does(&format!("open {path} r")), "ok", "{path}");
    }
    assert_eq!(inside.does("open /dev/kmsg r"), EPERM);
    assert_eq!(inside.does("open /dev/ptmx w"), EPERM);
    let kmsg = Device { is_block: false, major: 1, minor: 11, read: true, write: false };
    let policy = Policy { devices: vec![kmsg], ..Policy::default() };
    platform.enforcement().set_policy(1, &policy).unwrap();
    assert_eq!(inside.does("open /dev/kmsg r"), "ok");
    assert_eq!(inside.does("open /dev/kmsg w"), EPERM, "to read only");
    assert_eq!(inside.does("open /dev/ptmx w"), EPERM);
    platform.enforcement().set_policy(1, &Policy::default()).unwrap();
    assert_eq!(inside.does("open /dev/kmsg r"), EPERM, "taken away");
}

#[test]
fn strangers_open_the_default_ones_and_the_platform_all() {
    let Some(mut platform) = Platform::start() else { return };
    let stranger = platform.group_below("stranger");
    let mut inside = Inside::start(&[&stranger]);
    assert_eq!(
        (inside.does("open /dev/null w").as_str(), inside.does("open /dev/kmsg r").as_str()),
        ("ok", EPERM)
    );
    assert_eq!(Inside::start(&[&platform.group.0]).does("open /dev/kmsg r"), "ok");
    let Some(mut tolerant) = Platform::with(Strangers::Untouched, false) else { return };
    let stranger = tolerant.group_below("stranger");
    assert_eq!(Inside::start(&[&stranger]).does("open /dev/kmsg r"), "ok");
}
