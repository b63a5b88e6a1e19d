//! Time, chance, and what a driver says of itself.

use crate::{Ground, PATIENCE};
use call::Instant;
use driver::{Arrivals, Driver};
use std::collections::BTreeSet;
use std::time::Duration;

/// A reap with nothing to bring ends when its time has come; it may end early, but not for ever.
pub fn sleep_ends_when_it_should<G: Ground>(ground: &mut G) {
    let mut driver = ground.driver();
    let mut arrivals = Arrivals::new();
    let begin = driver.now();
    let until = begin + Duration::from_millis(5);
    while driver.now() < until {
        driver.reap(until, &mut arrivals);
        assert!(arrivals.is_empty() && driver.now() < begin + PATIENCE);
    }
    for past in [Instant(0), begin, driver.now()] {
        driver.reap(past, &mut arrivals);
        assert!(driver.now() < begin + PATIENCE, "a time that has passed is not waited for");
    }
}

/// No clock goes back, and the wall's goes as fast as the monotonic one.
pub fn time_goes_forward<G: Ground>(ground: &mut G) {
    let mut driver = ground.driver();
    let mut arrivals = Arrivals::new();
    let (first, wall) = (driver.now(), driver.wall());
    assert!(wall.0 > 1_700_000_000_000_000_000, "{wall:?} is before 2023: not Unix time");
    let mut before = (first, wall, driver.precise());
    for _ in 0..50 {
        driver.reap(driver.now() + Duration::from_micros(100), &mut arrivals);
        let now = (driver.now(), driver.wall(), driver.precise());
        assert!(now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2, "a clock went back");
        assert!(now.2 >= now.0, "the fresh time is not older than the round's");
        before = now;
    }
    let (passed, on_the_wall) = (before.0.since(first), before.1.since(wall));
    assert!(
        passed.abs_diff(on_the_wall) < Duration::from_secs(2),
        "{passed:?} against {on_the_wall:?} on the wall"
    );
}

/// Two drivers do not draw the same bits, nor one driver twice.
pub fn random_bits_differ<G: Ground>(ground: &mut G) {
    let (mut one, mut other) = (ground.driver(), ground.driver());
    let drawn: BTreeSet<u64> = (0..100).flat_map(|_| [one.random(), other.random()]).collect();
    assert_eq!(drawn.len(), 200);
}

/// A driver says which backend it uses.
pub fn backends_are_named<G: Ground>(ground: &mut G) {
    let backends = ground.driver().backends();
    assert!(!backends.is_empty());
    assert!(backends.iter().all(|(what, which)| !what.is_empty() && !which.is_empty()), "{backends:?}");
}
