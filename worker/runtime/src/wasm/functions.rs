//! The functions of a core: light until their first call, then with mapped code.

use super::artefact;
use super::command;
use super::fast::{self, Exports};
use super::files::{Allowed, Budget, Kind, Table};
use super::host::{Desk, Granted, Grants, Host, Stdout};
use super::warm::Place;
use super::{Options, Seat, pressure, wasi};
use crate::results::Room;
use crate::seam::Begin;
use call::function::{Abi, InstanceMode};
use call::{FunctionId, FunctionSpec};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use wasmtime::{Engine, InstancePre, Linker, Module, ModuleExport};

/// Sweeps without a call after which a function's code is unmapped.
const SWEEPS_LOADED: u32 = 40;

/// A published function.
pub struct Function {
    name: Rc<str>,
    artefact: Rc<str>,
    abi: Abi,
    instance: InstanceMode,
    memory_bytes: u64,
    granted: Option<Rc<Granted>>,
    /// Counts publications, over all functions: instances of another one are not reused.
    pub generation: u64,
    /// Its warm instances, the most recently used last.
    pub warm: Vec<Place>,
    /// Sweeps since its last cold start.
    sweeps: u32,
    code: Option<Code>,
    /// The version before, until this one's code is mapped: calls that were leased before this host had compiled the
    /// new version run as they would have.
    former: Option<Box<Function>>,
}

impl Function {
    /// Whether it runs as `spec` says.
    pub fn is(&self, spec: &FunctionSpec) -> bool {
        *self.artefact == spec.artefact
            && *self.name == spec.name
            && (self.abi, self.instance, self.memory_bytes) == (spec.abi, spec.instance, spec.memory_bytes)
            && self.granted == Granted::of(spec)
    }
}

/// Mapped code, ready to make instances of.
#[derive(Clone)]
struct Code {
    pre: Rc<InstancePre<Host>>,
    entry: Entry,
}

#[derive(Clone, Copy)]
enum Entry {
    Fast(Exports),
    Command(ModuleExport),
}

/// A function's id is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a function id is one number");
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Generation of an instance that serves one call and is dropped then.
const NEVER_KEPT: u64 = 0;

/// All published functions, and what is common to their instances.
pub struct Functions {
    functions: HashMap<FunctionId, Function, BuildHasherDefault<AsItIs>>,
    engine: Engine,
    linker: Linker<Host>,
    /// The loop that serves a warm instance; see `serve.wat`.
    serve: Module,
    cache_dir: PathBuf,
    generation: u64,
    /// Directories that this host's operator allows.
    allowed: Allowed,
    /// Descriptors for all guests of the core.
    budget: Budget,
    /// Desks of guests that are gone, with their buffers.
    spare: Vec<Rc<Desk>>,
    /// For large results.
    room: Room,
}

/// Desks kept: those of a burst of fresh instances.
const SPARE_MAX: usize = 64;

impl Functions {
    /// None yet. The artefacts will be looked for in the cache directory of `options`.
    pub fn new(engine: &Engine, options: &Options) -> wasmtime::Result<Functions> {
        let mut linker = Linker::new(engine);
        wasi::link(&mut linker)?;
        pressure::link(&mut linker)?;
        let serve = Module::new(engine, include_bytes!("serve.wasm"))?;
        Ok(Functions {
            functions: HashMap::default(),
            engine: engine.clone(),
            linker,
            serve,
            cache_dir: options.cache_dir.clone(),
            generation: 0,
            allowed: options.files_allowed.clone(),
            budget: Budget::new(options.files),
            spare: Vec::with_capacity(SPARE_MAX),
            room: options.room.clone(),
        })
    }

    /// A published function.
    pub fn get_mut(&mut self, function: FunctionId) -> Option<&mut Function> {
        self.functions.get_mut(&function)
    }

    /// Publishes a function, in place of another one of its id.
    pub fn insert(&mut self, function: FunctionId, spec: &FunctionSpec) {
        self.generation += 1;
        // Of two versions before, the one that is known to run.
        let former = self.functions.remove(&function).map(|mut before| match before.former.take() {
            Some(former) if before.code.is_none() => former,
            _ => Box::new(before),
        });
        let published = Function {
            name: spec.name.as_str().into(),
            artefact: spec.artefact.as_str().into(),
            abi: spec.abi,
            instance: spec.instance,
            memory_bytes: spec.memory_bytes,
            granted: Granted::of(spec),
            generation: self.generation,
            warm: Vec::new(),
            sweeps: 0,
            code: None,
            former,
        };
        self.functions.insert(function, published);
    }

    /// Takes back the desk of a guest that is gone.
    pub fn take_back(&mut self, desk: Rc<Desk>) {
        if self.spare.len() < SPARE_MAX && Rc::strong_count(&desk) == 1 {
            desk.clear();
            desk.memory_bytes.set(0);
            self.spare.push(desk);
        }
    }

    /// Forgets a function.
    pub fn remove(&mut self, function: FunctionId) {
        self.functions.remove(&function);
    }

    /// Functions whose code is mapped.
    pub fn loaded(&self) -> usize {
        self.functions.values().filter(|function| function.code.is_some()).count()
    }

    /// Maps a published function's code, if that can be done: whoever calls it hears why not.
    pub fn map(&mut self, function: FunctionId) {
        let Some(function) = self.functions.get_mut(&function) else { return };
        function.sweeps = 0;
        if function.code.is_none()
            && let Ok(code) = load(&self.engine, &self.linker, &self.cache_dir, function)
        {
            (function.code, function.former) = (Some(code), None);
        }
    }

    /// Unmaps a function's code. Instances that run have their own hold on it.
    pub fn unmap(&mut self, function: FunctionId) {
        if let Some(function) = self.functions.get_mut(&function).filter(|of| of.warm.is_empty()) {
            function.code = None;
        }
    }

    /// Unmaps the code of functions that were not called for long.
    pub fn unload_unused(&mut self) {
        for function in self.functions.values_mut() {
            function.sweeps += 1;
            if function.sweeps > SWEEPS_LOADED && function.warm.is_empty() {
                function.code = None;
                function.former = None;
            }
        }
    }

    /// A new instance for a call, not yet run, and its generation: 0 if it is one of the version before, because this
    /// one is not compiled here yet.
    ///
    /// # Errors
    /// Why the function cannot run, for people.
    ///
    /// # Panics
    /// If the function is not published.
    pub fn seat(&mut self, begin: &Begin<'_>) -> Result<(Seat, u64), String> {
        let mut function = self.functions.get_mut(&begin.function).expect("the function is published");
        function.sweeps = 0;
        let mut generation = function.generation;
        if function.code.is_none() {
            match load(&self.engine, &self.linker, &self.cache_dir, function) {
                Ok(code) => (function.code, function.former) = (Some(code), None),
                Err(why) => {
                    function = function.former.as_mut().ok_or(why)?;
                    generation = NEVER_KEPT;
                }
            }
        }
        let code = match &function.code {
            Some(code) => code.clone(),
            None => {
                let code = load(&self.engine, &self.linker, &self.cache_dir, function)?;
                function.code.insert(code).clone()
            }
        };
        let grants = granted(function, &self.allowed, &self.budget)?;
        let desk = self.spare.pop().unwrap_or_else(|| Rc::new(Desk::new(&self.room)));
        let stdout = match code.entry {
            Entry::Fast(_) => Stdout::Stderr,
            Entry::Command(_) => Stdout::Output,
        };
        let store = Host::store(&self.engine, &desk, &function.name, function.memory_bytes, stdout, grants);
        let run: std::pin::Pin<Box<dyn Future<Output = wasmtime::Result<()>>>> =
            match (code.entry, function.instance) {
                (Entry::Fast(exports), InstanceMode::Fresh) => Box::pin(fast::once(store, code.pre, exports)),
                (Entry::Fast(exports), InstanceMode::Reuse) => {
                    Box::pin(fast::forever(store, code.pre, exports, self.serve.clone()))
                }
                (Entry::Command(start), _) => {
                    wasi::environment::write(&mut desk.environment.borrow_mut(), &function.name, begin);
                    Box::pin(command::run(store, code.pre, start))
                }
            };
        Ok((Seat { run, desk }, generation))
    }
}

/// What the manifest grants, for a new instance.
fn granted(function: &Function, allowed: &Allowed, budget: &Budget) -> Result<Grants, String> {
    let mut files = Table::new(budget);
    for (name, directory) in function.granted.iter().flat_map(|granted| &granted.files) {
        let opened = allowed.open(directory)?;
        let full = |_| "functions of this core have as many files open as they may; try again".to_owned();
        files.insert(opened, Kind::Grant(name.as_str().into())).map_err(full)?;
    }
    Ok(Grants { granted: function.granted.clone(), files })
}

/// Maps a function's code and finds its entry.
fn load(
    engine: &Engine,
    linker: &Linker<Host>,
    cache_dir: &Path,
    function: &Function,
) -> Result<Code, String> {
    let module = artefact::load(engine, cache_dir, &function.artefact).map_err(|error| error.to_string())?;
    let fast = Exports::of(&module).map(Entry::Fast);
    let command = module.get_export_index(command::START).map(Entry::Command);
    let entry = match function.abi {
        Abi::Auto => fast.or(command),
        Abi::Fast => fast,
        Abi::Wasi => command,
        // Of processes; the manifest's check refuses them for wasm.
        Abi::RuntimeApi | Abi::Stdio => None,
    };
    let entry = entry.ok_or_else(|| {
        format!("the module does not speak the ABI that its manifest says ({:?})", function.abi)
    })?;
    let pre = linker.instantiate_pre(&module).map_err(|error| format!("cannot be linked: {error:?}"))?;
    Ok(Code { pre: Rc::new(pre), entry })
}
