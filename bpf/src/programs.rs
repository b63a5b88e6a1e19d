//! Loads the programs of sandboxes, and puts them into force in place of those before them without a gap.

use crate::error::{BpfError, Warnings};
use crate::guards;
use crate::pins::Pins;
use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Link, Object, OpenObject, ProgramMut, ProgramType};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::Path;

/// What the programs are loaded with.
pub struct Setup<'a> {
    pub pins: &'a Pins,
    /// The platform's group, open, and its id.
    pub group: &'a File,
    pub group_id: u64,
    pub strangers_denied: bool,
    pub sandboxes_max: u32,
    pub functions_max: u32,
    /// Of the tracing programs.
    pub generation: u64,
    /// Whether system calls are counted.
    pub syscalls: bool,
}

/// Entries of `grants` per function: both transports of all grants of both kinds, twice while they are replaced.
const GRANTS_PER_FUNCTION: u32 = 2 * 2 * 2 * crate::policy::GRANTS_MAX as u32;
const DEVICES_PER_FUNCTION: u32 = 2 * crate::policy::DEVICES_MAX as u32;

/// Not loaded unless it is asked for.
const OPTIONAL_PROGRAM: &str = "on_syscall";

/// One object: opens it, sets options and maps, loads it, and has `put` put its programs into force.
macro_rules! object {
    ($name:ident, $builder:ident, $skeleton:literal) => {
        pub fn $name(setup: &Setup<'_>) -> Result<(), BpfError> {
            /// Generated from the program.
            #[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]
            mod skeleton {
                include!(concat!(env!("OUT_DIR"), $skeleton));
            }
            let warnings = Warnings::capture();
            let mut object = MaybeUninit::uninit();
            let builder = skeleton::$builder::default();
            let mut open =
                builder.open(&mut object).map_err(|error| warnings.error("open BPF programs", &error))?;
            let rodata = open.maps.rodata_data.as_deref_mut().expect("the object has options");
            rodata.options.generation = setup.generation;
            rodata.options.platform = setup.group_id;
            rodata.options.strangers_denied = setup.strangers_denied.into();
            prepare(open.open_object_mut(), setup)
                .map_err(|error| warnings.error("prepare BPF maps", &error))?;
            let loaded = open.load().map_err(|error| warnings.error("load BPF programs", &error))?;
            put(loaded.object(), setup, &warnings)
        }
    };
}

object!(network, NetworkSkelBuilder, "/network.skel.rs");
object!(devices, DeviceSkelBuilder, "/device.skel.rs");
object!(account, AccountSkelBuilder, "/account.skel.rs");
object!(events, EventsSkelBuilder, "/events.skel.rs");

/// Sizes and pins of the maps; which programs are loaded.
fn prepare(object: &mut OpenObject, setup: &Setup<'_>) -> Result<(), libbpf_rs::Error> {
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let entries = match name.as_str() {
            "sandboxes" | "usages" | "buckets" => Some(setup.sandboxes_max),
            "policies" => Some(setup.functions_max),
            "grants" => Some(setup.functions_max.saturating_mul(GRANTS_PER_FUNCTION)),
            "devices" => Some(setup.functions_max.saturating_mul(DEVICES_PER_FUNCTION)),
            "slices" | "control" | "ended" | "events" => None,
            // Options and the like: each load's own.
            _ => continue,
        };
        if let Some(entries) = entries {
            map.set_max_entries(entries)?;
        }
        map.set_pin_path(setup.pins.map(&name))?;
    }
    let optional = object.progs_mut().find(|program| program.name() == OPTIONAL_PROGRAM);
    if let Some(mut program) = optional {
        program.set_autoload(setup.syscalls);
    }
    Ok(())
}

/// Attaches all programs of the object that were loaded, or none.
fn put(object: &Object, setup: &Setup<'_>, warnings: &Warnings) -> Result<(), BpfError> {
    let mut fresh = Vec::new();
    for mut program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if name == OPTIONAL_PROGRAM && !setup.syscalls {
            continue;
        }
        if guards::is_guard(&name) {
            repin(&mut program, &setup.pins.program(&name))
                .map_err(|error| warnings.error("pin a BPF program", &error))?;
            continue;
        }
        let (pin, link) = if program.prog_type() == ProgramType::Tracing {
            let link =
                program.attach().map_err(|error| warnings.error("attach a tracing program", &error))?;
            (format!("{name}-{}", setup.generation), Some(link))
        } else {
            let link = replace(&program, &name, setup)
                .map_err(|error| warnings.error("attach a program to the platform's cgroup", &error))?;
            (name, link)
        };
        fresh.extend(link.map(|link| (pin, link)));
    }
    // A link that is not pinned ends with its process: an object of which one program fails leaves nothing behind.
    for (pin, mut link) in fresh {
        if setup.pins.link(&pin).exists() {
            // What it replaces is attached up to here.
            setup.pins.remove_link(&pin)?;
        }
        link.pin(setup.pins.link(&pin)).map_err(|error| warnings.error("pin a BPF link", &error))?;
    }
    Ok(())
}

/// Pins it in the place of the one before it, which groups that have it keep.
fn repin(program: &mut ProgramMut<'_>, pin: &Path) -> Result<(), libbpf_rs::Error> {
    if pin.exists() {
        std::fs::remove_file(pin)?;
    }
    program.pin(pin)
}

/// Puts the program in the place of the one before it, in one step; or attaches it beside that one, to be pinned in its
/// place, if there is none or it is attached to another group.
fn replace(
    program: &ProgramMut<'_>,
    name: &str,
    setup: &Setup<'_>,
) -> Result<Option<Link>, libbpf_rs::Error> {
    if let Ok(mut before) = Link::open(setup.pins.link(name)) {
        let group = match before.info()?.info {
            LinkTypeInfo::Cgroup(link) => link.cgroup_id,
            _ => 0,
        };
        if group == setup.group_id && before.update_prog(program).is_ok() {
            return Ok(None);
        }
    }
    program.attach_cgroup(setup.group.as_raw_fd()).map(Some)
}
