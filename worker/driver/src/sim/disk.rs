//! The disks of a world: one per machine, alive when its processes die.
//!
//! A write is on the disk when its completion is told, not before: at a crash, each sector of a write in flight is
//! there or not, independently of the others, so that writes are lost, torn and reordered. So with removals and new
//! names: each is on the disk when it is told, and at a crash before that it has happened or not. Bits that rot are
//! turned over by the simulator ([`super::World::disk`]), which has to know which.

use super::random::Random;
use super::world::{Happening, Incoming, Inner, MachineId, ProcessId};
use crate::seam::{BlockId, FileId, Token};
use std::collections::BTreeMap;
use std::io;

/// Alignment of direct reads and writes.
const PAGE: usize = 4096;
/// A disk writes this much as a whole, or nothing of it.
const SECTOR: usize = 512;
/// A lying disk forgets at most this many of the writes it told to be done: a small write cache.
const CACHE_WRITES: usize = 64;

struct File {
    name: String,
    content: Vec<u8>,
    /// It has its name in the directory.
    linked: bool,
}

enum Operation {
    Write { file: usize, offset: usize, bytes: Vec<u8>, block: BlockId },
    Read { file: usize, offset: usize, bytes: usize, block: BlockId },
    Create { name: String, bytes: usize },
    Remove { id: FileId, file: usize },
    Rename { from: String, to: String },
}

struct Flight {
    process: ProcessId,
    token: Token,
    operation: Operation,
}

/// What a lying disk has in its cache: how the disk really looks there.
struct Unsettled {
    process: ProcessId,
    file: usize,
    offset: usize,
    before: Vec<u8>,
}

pub(super) struct Machine {
    pub name: String,
    files: Vec<File>,
    flights: BTreeMap<u64, Flight>,
    flown: u64,
    cache: Vec<Unsettled>,
}

impl Machine {
    pub fn new(name: &str) -> Machine {
        Machine {
            name: name.into(),
            files: Vec::new(),
            flights: BTreeMap::new(),
            flown: 0,
            cache: Vec::new(),
        }
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.files.iter().position(|file| file.linked && file.name == name)
    }

    /// The files that have a name.
    pub fn each_file(&mut self, each: &mut impl FnMut(&str, &mut [u8])) {
        self.files.iter_mut().filter(|file| file.linked).for_each(|file| each(&file.name, &mut file.content));
    }

    fn used(&self) -> usize {
        self.files.iter().filter(|file| file.linked).map(|file| file.content.len()).sum()
    }

    fn apply(&mut self, file: usize, offset: usize, bytes: &[u8]) {
        self.files[file].content[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<usize, i32> {
        if self.named(to).is_some() {
            return Err(libc::EEXIST);
        }
        let file = self.named(from).ok_or(libc::ENOENT)?;
        self.files[file].name = to.to_owned();
        Ok(file)
    }

    /// What a crash of this process undoes of what it had done on a disk that lied: the last writes, latest first.
    fn forget(&mut self, random: &mut Random, process: ProcessId) {
        let (mut mine, others): (Vec<_>, Vec<_>) = self.cache.drain(..).partition(|of| of.process == process);
        self.cache = others;
        for Unsettled { file, offset, before, .. } in mine.drain(random.index(mine.len() + 1)..).rev() {
            self.files[file].content[offset..offset + before.len()].copy_from_slice(&before);
        }
    }

    /// What a write in flight leaves behind when the power goes.
    fn tear(&mut self, random: &mut Random, file: usize, offset: usize, bytes: &[u8]) {
        let unit = if random.chance(500_000) { SECTOR } else { PAGE };
        // How many of eight units arrive: none, some, all. All or nothing must be likely, else every crash is torn.
        let share = [0, 0, 2, 4, 6, 8, 8, 8][random.index(8)];
        for (index, part) in bytes.chunks(unit).enumerate() {
            if random.below(8) < share {
                self.apply(file, offset + index * unit, part);
            }
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Inner {
    fn disk(&mut self, id: ProcessId) -> &mut Machine {
        let machine = self.processes[id.0].machine;
        &mut self.machines[machine.0]
    }

    pub fn files(&self, id: ProcessId) -> Vec<(String, u64)> {
        let machine = &self.machines[self.processes[id.0].machine.0];
        let linked = machine.files.iter().filter(|file| file.linked);
        let mut files: Vec<_> = linked.map(|file| (file.name.clone(), file.content.len() as u64)).collect();
        files.sort();
        files
    }

    pub fn open(&mut self, id: ProcessId, name: &str) -> io::Result<FileId> {
        let file = self.disk(id).named(name).ok_or_else(|| errno(libc::ENOENT))?;
        Ok(self.opened(id, file))
    }

    fn opened(&mut self, id: ProcessId, file: usize) -> FileId {
        let process = self.process(id);
        process.files.push(Some(file));
        FileId(process.files.len() as u32 - 1)
    }

    fn file(&self, id: ProcessId, file: FileId) -> usize {
        self.processes[id.0].files[file.0 as usize].expect("a closed file is not used")
    }

    pub fn remove(&mut self, id: ProcessId, file: FileId, name: &str, token: Token) {
        let index = self.file(id, file);
        assert_eq!(self.disk(id).files[index].name, name, "a file is removed under its own name");
        self.launch(id, token, Operation::Remove { id: file, file: index });
    }

    pub fn rename(&mut self, id: ProcessId, from: &str, to: &str, token: Token) {
        self.launch(id, token, Operation::Rename { from: from.into(), to: to.into() });
    }

    pub fn create(&mut self, id: ProcessId, name: &str, bytes: u64, token: Token) {
        let operation = Operation::Create { name: name.into(), bytes: bytes as usize };
        self.launch(id, token, operation);
    }

    pub fn write(&mut self, id: ProcessId, file: FileId, offset: u64, block: (BlockId, &[u8]), token: Token) {
        let (file, offset, bytes) = (self.file(id, file), offset as usize, block.1.to_vec());
        assert!(offset.is_multiple_of(PAGE) && bytes.len().is_multiple_of(PAGE), "direct writes are aligned");
        let end = self.disk(id).files[file].content.len();
        assert!(offset + bytes.len() <= end, "write to {offset}+{} in a file of {end} bytes", bytes.len());
        self.launch(id, token, Operation::Write { file, offset, bytes, block: block.0 });
    }

    pub fn read(&mut self, id: ProcessId, file: FileId, offset: u64, block: (BlockId, usize), token: Token) {
        let (file, offset, bytes) = (self.file(id, file), offset as usize, block.1);
        assert!(offset.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE), "direct reads are aligned");
        self.launch(id, token, Operation::Read { file, offset, bytes, block: block.0 });
    }

    fn launch(&mut self, process: ProcessId, token: Token, operation: Operation) {
        let machine = self.processes[process.0].machine;
        let (low, high) = self.conditions.disk_delay;
        let wait = self.random.duration(low, high);
        let disk = &mut self.machines[machine.0];
        disk.flown += 1;
        let flight = disk.flown;
        disk.flights.insert(flight, Flight { process, token, operation });
        self.after(wait, Happening::Disk(machine, flight));
    }

    pub fn disk_done(&mut self, machine: MachineId, flight: u64) {
        let Some(Flight { process, token, operation }) = self.machines[machine.0].flights.remove(&flight)
        else {
            return;
        };
        let incoming = match operation {
            Operation::Write { file, offset, bytes, block } => {
                Incoming::Written(token, block, self.finish_write(process, file, offset, &bytes))
            }
            Operation::Read { file, offset, bytes, block } => {
                let content = &self.machines[machine.0].files[file].content;
                let from = offset.min(content.len());
                let to = (offset + bytes).min(content.len());
                Incoming::Read(token, block, Ok(content[from..to].to_vec()))
            }
            Operation::Create { name, bytes } => {
                Incoming::Created(token, self.finish_create(process, machine, name, bytes))
            }
            Operation::Remove { id, file } => {
                self.note(&[10, machine.0 as u64, file as u64]);
                self.machines[machine.0].files[file].linked = false;
                self.process(process).files[id.0 as usize] = None;
                Incoming::Directory(token, Ok(()))
            }
            Operation::Rename { from, to } => {
                let renamed = self.machines[machine.0].rename(&from, &to);
                self.note(&[11, machine.0 as u64, renamed.map_or(u64::MAX, |file| file as u64)]);
                Incoming::Directory(token, renamed.map(drop))
            }
        };
        self.tell(process, incoming);
    }

    fn finish_write(
        &mut self,
        process: ProcessId,
        file: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), i32> {
        let machine = self.processes[process.0].machine;
        self.note(&[7, machine.0 as u64, file as u64, offset as u64]);
        self.note_bytes(bytes);
        let fails = self.random.chance(self.conditions.write_error_ppm);
        let disk = &mut self.machines[machine.0];
        if self.conditions.lying_disk {
            let before = disk.files[file].content[offset..offset + bytes.len()].to_vec();
            disk.cache.push(Unsettled { process, file, offset, before });
            let settled = disk.cache.len().saturating_sub(CACHE_WRITES);
            disk.cache.drain(..settled);
        }
        if fails {
            disk.tear(&mut self.random, file, offset, bytes);
            return Err(libc::EIO);
        }
        disk.apply(file, offset, bytes);
        Ok(())
    }

    fn finish_create(
        &mut self,
        process: ProcessId,
        machine: MachineId,
        name: String,
        bytes: usize,
    ) -> Result<FileId, i32> {
        let room = self.conditions.disk_bytes_max;
        let disk = &mut self.machines[machine.0];
        if disk.named(&name).is_some() {
            return Err(libc::EEXIST);
        }
        if disk.used() + bytes > room {
            return Err(libc::ENOSPC);
        }
        disk.files.push(File { name, content: vec![0; bytes], linked: true });
        let file = disk.files.len() - 1;
        self.note(&[8, machine.0 as u64, file as u64, bytes as u64]);
        Ok(self.opened(process, file))
    }

    /// The process died, and its host with it as far as the disk is concerned.
    pub fn lose_writes(&mut self, id: ProcessId) {
        let machine = self.processes[id.0].machine;
        let disk = &mut self.machines[machine.0];
        let random = &mut self.random;
        let mine: Vec<u64> =
            disk.flights.iter().filter(|(_, f)| f.process == id).map(|(at, _)| *at).collect();
        disk.forget(random, id);
        for flight in mine {
            match disk.flights.remove(&flight).expect("listed above").operation {
                Operation::Write { file, offset, bytes, .. } => disk.tear(random, file, offset, &bytes),
                Operation::Create { name, bytes } => {
                    // The name may be there, with as much of the zeros as was written.
                    let written = PAGE * random.index(bytes / PAGE + 1);
                    if disk.named(&name).is_none() && random.chance(500_000) {
                        disk.files.push(File { name, content: vec![0; written], linked: true });
                    }
                }
                Operation::Remove { file, .. } => disk.files[file].linked = random.chance(500_000),
                Operation::Rename { from, to } => {
                    if random.chance(500_000) {
                        // One that fails changes nothing.
                        let _ = disk.rename(&from, &to);
                    }
                }
                Operation::Read { .. } => {}
            }
        }
    }
}
