//! What a wasm file is, told before it is deployed: its ABI, what it imports, and what keeps it from running
//! here. Reads and validates, compiles nothing.

use super::command::START;
use super::engine::{self, TABLE_ELEMENTS_MAX, TABLES_MAX};
use super::fast::{ALLOC, CALL};
use super::{pressure, wasi};
use call::function::Abi;
use call::limits::ARTEFACT_BYTES_MAX;
use std::fmt;
use wasmparser::{Encoding, ExternalKind, Parser, Payload, TypeRef, Validator};

/// What preview 1 has, in alphabetical order.
pub const PREVIEW1: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// What a wasm file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// The ABI that [`Abi::Auto`] means for it: `Fast` or `Wasi`.
    pub abi: Abi,
    /// Both ABIs are exported, so that the manifest may choose.
    pub both: bool,
    /// What it imports, as `module.name`.
    pub imports: Vec<String>,
    /// Bytes of linear memory that an instance has from the start.
    pub memory_bytes: u64,
}

/// Why a file cannot be a function, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InspectError {
    /// Larger than the limit; bytes it has.
    TooLarge(usize),
    /// Not a wasm file at all; what it looks like.
    NotWasm(String),
    /// A component (WASI 0.2 or later).
    Component,
    /// Damaged, or it uses a proposal that is not supported; what the validator said.
    Invalid(String),
    /// Imports that do not exist here: the name, and the nearest known one if it looks like a typing error.
    UnknownImports(Vec<(String, Option<String>)>),
    /// Neither ABI is exported; what is.
    NoAbi(Vec<String>),
    /// It does not speak the ABI that the manifest asks for; the missing export.
    WrongAbi(Abi, &'static str),
    /// Its memory is larger from the start than the manifest allows: bytes it has, bytes allowed.
    Memory(u64, u64),
    /// More memories or tables, or larger tables, than an instance may have.
    Pool(String),
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InspectError::TooLarge(bytes) => {
                write!(f, "is {bytes} bytes, at most {ARTEFACT_BYTES_MAX} allowed; strip it (`strip = true`)")
            }
            InspectError::NotWasm(what) => {
                write!(f, "is not a wasm file but {what}; build with `--target wasm32-wasip1`")
            }
            InspectError::Component => f.write_str(
                "is a component (WASI 0.2), which is not supported yet; build a core module \
                 with `--target wasm32-wasip1`",
            ),
            InspectError::Invalid(said) => write!(f, "is not a valid wasm module: {said}"),
            InspectError::UnknownImports(imports) => {
                f.write_str("imports what does not exist here: ")?;
                for (n, (import, nearest)) in imports.iter().enumerate() {
                    write!(f, "{}`{import}`", if n > 0 { ", " } else { "" })?;
                    if let Some(nearest) = nearest {
                        write!(f, " (nearest: `{nearest}`)")?;
                    }
                }
                write!(
                    f,
                    "; only `{}` and `{}.{}` are provided",
                    wasi::MODULE,
                    pressure::MODULE,
                    pressure::BACK_PRESSURE
                )
            }
            InspectError::NoAbi(exports) => write!(
                f,
                "exports neither `{START}` (a WASI command) nor `{ALLOC}` and `{CALL}` (the fast ABI); \
                 it exports {}",
                if exports.is_empty() { "nothing".into() } else { exports.join(", ") }
            ),
            InspectError::WrongAbi(abi, missing) => {
                let abi = format!("{abi:?}").to_lowercase();
                write!(f, "does not export `{missing}`, which `abi = \"{abi}\"` needs")
            }
            InspectError::Memory(has, allowed) => write!(
                f,
                "starts with {has} bytes of memory, but `memory` in function.toml allows {allowed}; \
                 raise it, or link with a smaller `--initial-memory`"
            ),
            InspectError::Pool(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for InspectError {}

/// Looks into a wasm file. `abi` and `memory_bytes_max` are what the manifest says.
///
/// # Errors
/// The first thing that keeps it from running here.
pub fn inspect(wasm: &[u8], abi: Abi, memory_bytes_max: u64) -> Result<Inspection, InspectError> {
    if wasm.len() > ARTEFACT_BYTES_MAX {
        return Err(InspectError::TooLarge(wasm.len()));
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(InspectError::NotWasm(looks_like(wasm).into()));
    }
    let mut contents = Contents::default();
    for payload in Parser::new(0).parse_all(wasm) {
        contents.add(payload.map_err(invalid)?)?;
    }
    Validator::new_with_features(engine::features()).validate_all(wasm).map_err(invalid)?;
    contents.check(abi, memory_bytes_max)
}

fn invalid(error: wasmparser::BinaryReaderError) -> InspectError {
    InspectError::Invalid(error.to_string())
}

/// For a person who took the wrong file.
fn looks_like(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "an empty file",
        [0x7f, b'E', b'L', b'F', ..] => "a native program",
        [b'(', ..] => "text, perhaps wat (assemble it with `wat2wasm`)",
        [b'P', b'K', ..] => "a zip archive",
        [b'#', b'!', ..] => "a script",
        _ if str::from_utf8(bytes).is_ok() => "text",
        _ => "something else",
    }
}

/// What a module brings, as far as it matters here.
#[derive(Default)]
struct Contents {
    imports: Vec<(String, String)>,
    exports: Vec<(String, ExternalKind)>,
    memories: Vec<u64>,
    tables: Vec<u64>,
}

impl Contents {
    fn add(&mut self, payload: Payload<'_>) -> Result<(), InspectError> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => return Err(InspectError::Component),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(invalid)?;
                    let name =
                        if matches!(import.ty, TypeRef::Func(_)) { import.name } else { "(not a function)" };
                    self.imports.push((import.module.into(), name.into()));
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    self.exports.push((export.name.into(), export.kind));
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory.map_err(invalid)?;
                    let page = 1_u64 << memory.page_size_log2.unwrap_or(16);
                    self.memories.push(memory.initial.saturating_mul(page));
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    self.tables.push(table.map_err(invalid)?.ty.initial);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check(self, abi: Abi, memory_bytes_max: u64) -> Result<Inspection, InspectError> {
        let unknown: Vec<_> = self.imports.iter().filter(|(module, name)| !provided(module, name)).collect();
        if !unknown.is_empty() {
            let told = |(module, name): &&(String, String)| (format!("{module}.{name}"), nearest(name));
            return Err(InspectError::UnknownImports(unknown.iter().map(told).collect()));
        }
        let (found, both) = self.abi(abi)?;
        let memory_bytes = self.memories.iter().sum();
        if memory_bytes > memory_bytes_max {
            return Err(InspectError::Memory(memory_bytes, memory_bytes_max));
        }
        self.check_pool()?;
        let imports = self.imports.into_iter().map(|(module, name)| format!("{module}.{name}")).collect();
        Ok(Inspection { abi: found, both, imports, memory_bytes })
    }

    /// The ABI in force, and whether there is a choice.
    fn abi(&self, wanted: Abi) -> Result<(Abi, bool), InspectError> {
        let has = |name: &str, kind| self.exports.iter().any(|export| export.0 == name && export.1 == kind);
        let fast_lacks =
            [("memory", ExternalKind::Memory), (ALLOC, ExternalKind::Func), (CALL, ExternalKind::Func)]
                .into_iter()
                .find(|(name, kind)| !has(name, *kind));
        let command = has(START, ExternalKind::Func);
        match (wanted, fast_lacks) {
            (Abi::Fast, Some((missing, _))) => Err(InspectError::WrongAbi(wanted, missing)),
            (Abi::Wasi, _) if !command => Err(InspectError::WrongAbi(wanted, START)),
            (Abi::Fast | Abi::Auto, None) => Ok((Abi::Fast, command)),
            (_, lacks) if command => Ok((Abi::Wasi, lacks.is_none())),
            _ => Err(InspectError::NoAbi(self.exports.iter().map(|(name, _)| format!("`{name}`")).collect())),
        }
    }

    fn check_pool(&self) -> Result<(), InspectError> {
        if self.memories.len() > 1 {
            return Err(InspectError::Pool(format!(
                "has {} memories, at most 1 allowed",
                self.memories.len()
            )));
        }
        if self.tables.len() > TABLES_MAX as usize {
            return Err(InspectError::Pool(format!(
                "has {} tables, at most {TABLES_MAX} allowed",
                self.tables.len()
            )));
        }
        match self.tables.iter().max() {
            Some(elements) if *elements > TABLE_ELEMENTS_MAX as u64 => Err(InspectError::Pool(format!(
                "has a table of {elements} elements, at most {TABLE_ELEMENTS_MAX} allowed"
            ))),
            _ => Ok(()),
        }
    }
}

fn provided(module: &str, name: &str) -> bool {
    let own = module == pressure::MODULE && name == pressure::BACK_PRESSURE;
    own || module == wasi::MODULE && PREVIEW1.binary_search(&name).is_ok()
}

/// The known import that a name was probably meant to be.
fn nearest(name: &str) -> Option<String> {
    let scored = PREVIEW1.iter().map(|known| (strsim::jaro_winkler(known, name), known));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.85).then(|| format!("{}.{}", wasi::MODULE, best.1))
}
