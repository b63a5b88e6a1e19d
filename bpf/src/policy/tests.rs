use super::*;
use proptest::prelude::*;

fn endpoints(transport: Option<Transport>, address: &str, bits: u8, first: u16, last: u16) -> Endpoints {
    Endpoints { transport, address: address.parse().unwrap(), bits, ports: (first, last) }
}

fn host(connect: Vec<Endpoints>) -> Policy {
    Policy { network: Network::Host { connect, listen: Vec::new() }, ..Policy::default() }
}

#[test]
fn a_prefix_carries_the_ranges_of_those_that_cover_it() {
    let policy = host(vec![
        endpoints(Some(Transport::Tcp), "10.0.0.0", 8, 443, 443),
        endpoints(Some(Transport::Tcp), "10.1.2.3", 32, 80, 90),
        endpoints(Some(Transport::Tcp), "10.1.2.99", 24, 85, 100),
    ]);
    let grants = policy.grants(5);
    let range = |first, last, is_local| PortRange { first, last, is_local };
    let of = |address: &str, bits| {
        let key = GrantKey::new(5, Transport::Tcp, false, address.parse().unwrap(), bits);
        grants.iter().find(|(found, _)| *found == key).map(|(_, grant)| grant.ranges.clone())
    };
    assert_eq!(of("10.0.0.0", 8), Some(vec![range(443, 443, false)]));
    assert_eq!(of("10.1.2.0", 24), Some(vec![range(85, 100, false), range(443, 443, false)]));
    let all = vec![range(85, 100, false), range(443, 443, false), range(80, 90, true)];
    assert_eq!(of("10.1.2.3", 32), Some(all));
    assert_eq!(grants.len(), 3);
}

#[test]
fn what_does_not_fit_is_said() {
    let rule = |bits, first, last| endpoints(None, "10.0.0.0", bits, first, last);
    let error = |policy: Policy| policy.check().unwrap_err().to_string();
    assert_eq!(error(host(vec![rule(33, 1, 1)])), "10.0.0.0/33: the address has not so many bits");
    assert_eq!(error(host(vec![rule(8, 2, 1)])), "ports 2-1: the first is behind the last");
    assert_eq!(error(host(vec![rule(8, 1, 1); 65])), "a policy has 65 grants to connect; at most 64 fit");
    let slow = Policy { egress_bytes_per_s: 5, ..Policy::default() };
    assert!(error(slow).starts_with("5 bytes/s cannot be enforced; say 1024 to"));
    assert_eq!(host(vec![rule(32, 0, 65535); 64]).check(), Ok(()));
}

#[test]
fn a_rate_fits_its_word_with_the_largest_packet() {
    for rate in [RATE_MIN, 10 << 20, RATE_MAX] {
        let pace = pace(rate);
        let cost = pace.checked_mul(1 << 20).expect("a packet of 1 MiB fits") >> abi::RATE_SHIFT;
        let exact = 1_048_576.0 * 1e9 / rate as f64;
        assert!((cost as f64 / exact - 1.0).abs() < 0.01, "{rate} B/s: {cost} ns for {exact}");
    }
    assert_eq!(pace(0), 0);
}

fn any_endpoints() -> impl Strategy<Value = Endpoints> {
    let transport = prop_oneof![Just(None), Just(Some(Transport::Tcp)), Just(Some(Transport::Udp))];
    (transport, any::<IpAddr>(), any::<u8>(), any::<(u16, u16)>()).prop_map(
        |(transport, address, bits, ports)| {
            let bits = (u32::from(bits) % (width(address) + 1)) as u8;
            Endpoints { transport, address, bits, ports: (ports.0.min(ports.1), ports.0.max(ports.1)) }
        },
    )
}

proptest! {
    /// Whatever is checked fits: each key once, never more ranges than a grant has.
    #[test]
    fn any_policy_fits(
        connect in prop::collection::vec(any_endpoints(), 0..=GRANTS_MAX),
        listen in prop::collection::vec(any_endpoints(), 0..=GRANTS_MAX),
    ) {
        let policy = Policy { network: Network::Host { connect, listen }, ..Policy::default() };
        prop_assert_eq!(policy.check(), Ok(()));
        let grants = policy.grants(1);
        let keys: BTreeSet<_> = grants.iter().map(|(key, _)| key.to_bytes()).collect();
        prop_assert_eq!(keys.len(), grants.len());
        for (_, grant) in &grants {
            prop_assert!(!grant.ranges.is_empty());
            grant.to_bytes();
        }
    }
}
