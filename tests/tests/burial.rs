//! `function delete --force` while the node is killed with SIGKILL in the middle: after its start all calls of the function
//! are dead letters, none is lost and none waits.

use call::body::Submit;
use call::{FunctionId, WallTime};
use millrace_client::Options;
use millrace_client::blocking::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::harness::{ECHO, PATIENCE, Site, until};

/// Calls of one function: several rounds of a burial.
const CALLS: usize = 600;

#[test]
fn a_node_that_is_killed_while_it_buries_goes_on_after_its_start() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    let pid = || -> Option<i32> {
        let file: Value =
            serde_json::from_slice(&std::fs::read(site.data().join("run/control.json")).ok()?).ok()?;
        file["pid"].as_i64().map(|pid| pid as i32)
    };
    for (round, delay_us) in [0, 700, 3000].into_iter().enumerate() {
        let name = format!("echo-{round}");
        site.deploy(&name, ECHO, "");
        let options = Options { name: "burial".into(), patience: PATIENCE, ..Options::default() };
        let mut client = Client::connect(&site.endpoint(), options).expect("it serves");
        let later = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let start_at = WallTime(later) + Duration::from_secs(3600);
        for _ in 0..CALLS {
            let call = client.call(FunctionId::of("default", &name), b"later");
            client.submit(&Submit { start_at, ..call }).expect("an answer").accepted().expect("it is held");
        }
        drop(client);
        let deletion = site.begin(&["function", "delete", &name, "--force"]);
        // The order is on disk before the node hears of it.
        let catalog = site.data().join("catalog.json");
        let buried =
            |text: &str| text.rsplit_once("\"buried\"").is_some_and(|(_, names)| names.contains(&name));
        until("the order", || {
            std::fs::read_to_string(&catalog).is_ok_and(|text| buried(&text)).then_some(())
        });
        std::thread::sleep(Duration::from_micros(delay_us));
        let killed = pid().expect("it serves");
        kill(Pid::from_raw(killed), Signal::SIGKILL).expect("it runs");
        // Whether it was answered before or not.
        deletion.finish();
        until("another node", || pid().filter(|pid| *pid != killed));
        let ended = until("no call to wait", || site.status().filter(|status| status["pending"] == 0));
        assert_eq!(ended["dead_letters"].as_u64(), Some(((round + 1) * CALLS) as u64), "{ended}");
        site.run(&["function", "delete", &name, "--force"]).fails(3, &[&name]);
    }
    assert_eq!(up.stop(), 0, "{}", up.output());
}
