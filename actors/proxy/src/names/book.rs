//! Maps names to addresses of our own, and these back to names.
//!
//! ```text
//! index = generation × MAX_NAMES + slot      198.18.0.0 + index      fd63:6f66:0:2:: + index
//! ```
//! A name gets a slot, and with it one address of each family. When all slots are taken, a new name takes the
//! slot of the least recently used name, out of the half that was bound longest ago, in the slot's next
//! generation. So an address comes back only after its slot has had [`GENERATIONS`] names, and all slots
//! together [`RESTS`] new names for each of them, whatever an agent keeps in use: the limit on new names
//! stretches that over hours. Until then the address leads nowhere. Bindings are written to a memory file
//! before they are used in an answer, so that a supervisor's death changes none. How long a slot has rested
//! isn't written: a successor takes no slot from a name until no client can still hold an answer with its
//! address.
//!
//! Reading (each captured connection) takes no lock. 198.18.0.0/15 is the benchmark range of RFC 2544, which
//! no client treats as its own network and the guard never dials.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use policy::DomainName;

use super::server::TTL;

/// Most names that have addresses at a time. A policy names dozens; only wildcards make more.
pub const MAX_NAMES: usize = 4096;
/// Addresses in 198.18.0.0/15.
const ADDRESSES: u32 = 1 << 17;
/// How many names a slot has before its first address comes back.
pub const GENERATIONS: u32 = ADDRESSES / MAX_NAMES as u32;
/// Number of new names in all slots together before a slot may get its next.
const RESTS: u64 = MAX_NAMES as u64 / 2;
const V4: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6f66, 0, 2, 0, 0, 0, 0);
/// Bytes of one record in the file: generation plus one, length, name. A power of two, so that none crosses a
/// page: then the kernel writes it whole or not at all.
const RECORD: usize = 256;
const NAME_AT: usize = 3;

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// This name.
    Name(DomainName),
    /// An address of ours that stands for no name, or no longer does.
    Nothing,
    /// Not an address of ours: the agent itself chose it.
    Foreign,
}

/// The addresses of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// In 198.18.0.0/15.
    pub v4: Ipv4Addr,
    /// In fd63:6f66:0:2::/96.
    pub v6: Ipv6Addr,
}

/// All bindings. Lives above the proxy actor.
#[derive(Debug)]
pub struct Book {
    slots: Box<[Slot]>,
    writer: Mutex<Writer>,
    file: Option<File>,
    /// Counts uses: a logical clock for "least recently used".
    clock: AtomicU64,
    /// When bindings were taken over from a predecessor, which alone knew the slots that had rested.
    taken_up: Option<Instant>,
}

#[derive(Debug, Default)]
struct Slot {
    binding: ArcSwapOption<Binding>,
    used: AtomicU64,
    /// The count of new names ([`Writer::bound`]) from which it may get its next. Written under the writer's
    /// lock.
    rests_until: AtomicU64,
}

#[derive(Debug, PartialEq, Eq)]
struct Binding {
    generation: u32,
    name: DomainName,
}

#[derive(Debug, Default)]
struct Writer {
    slots: HashMap<DomainName, usize>,
    /// New names so far.
    bound: u64,
}

impl Book {
    /// An empty book, in memory only.
    #[must_use]
    pub fn new() -> Self {
        let slots = (0..MAX_NAMES).map(|_| Slot::default()).collect();
        Self { slots, writer: Mutex::default(), file: None, clock: AtomicU64::new(1), taken_up: None }
    }

    /// A book that starts with the bindings in `file` and writes its own there. A malformed record is no
    /// binding.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn kept_in(file: File) -> io::Result<Self> {
        let mut book = Self::new();
        let mut writer = Writer::default();
        let size = file.metadata()?.len();
        let mut record = [0; RECORD];
        for (number, slot) in book.slots.iter().enumerate() {
            let at = (number * RECORD) as u64;
            if at + RECORD as u64 > size {
                break;
            }
            file.read_exact_at(&mut record, at)?;
            if let Some(binding) = Binding::read(&record)
                && !writer.slots.contains_key(&binding.name)
            {
                writer.slots.insert(binding.name.clone(), number);
                slot.binding.store(Some(binding.into()));
            }
        }
        book.taken_up = (!writer.slots.is_empty()).then(Instant::now);
        book.writer = Mutex::new(writer);
        book.file = Some(file);
        Ok(book)
    }

    /// Returns the addresses of a name, if it has some.
    #[must_use]
    pub fn known(&self, name: &DomainName) -> Option<Addresses> {
        self.known_to(&self.lock(), name)
    }

    fn known_to(&self, writer: &Writer, name: &DomainName) -> Option<Addresses> {
        let slot = *writer.slots.get(name)?;
        self.touch(slot);
        self.addresses(slot)
    }

    /// Returns the addresses of a name; binds it first if it has none.
    ///
    /// # Errors
    /// When the binding can't be written, or all slots must still rest: then it isn't made.
    pub fn bind(&self, name: &DomainName) -> io::Result<Addresses> {
        // Looked up and bound under one lock: two who ask at a time for a new name must get one slot.
        let mut writer = self.lock();
        if let Some(known) = self.known_to(&writer, name) {
            return Ok(known);
        }
        let number = self.free_slot(&writer).ok_or(io::ErrorKind::ResourceBusy)?;
        let slot = self.slots.get(number).ok_or(io::ErrorKind::StorageFull)?;
        let before = slot.binding.load_full();
        let generation = before.as_ref().map_or(0, |before| (before.generation + 1) % GENERATIONS);
        let binding = Binding { generation, name: name.clone() };
        if let Some(file) = &self.file {
            file.write_all_at(&binding.record(), (number * RECORD) as u64)?;
        }
        if let Some(before) = before {
            writer.slots.remove(&before.name);
        }
        writer.slots.insert(name.clone(), number);
        writer.bound += 1;
        slot.rests_until.store(writer.bound + RESTS, Ordering::Relaxed);
        slot.binding.store(Some(binding.into()));
        self.touch(number);
        self.addresses(number).ok_or_else(|| io::ErrorKind::StorageFull.into())
    }

    /// What an address stands for.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Bound {
        let Some(index) = index(address) else { return Bound::Foreign };
        let (number, generation) = (index as usize % MAX_NAMES, index / MAX_NAMES as u32);
        let binding = self.slots.get(number).and_then(|slot| slot.binding.load_full());
        match binding.filter(|binding| binding.generation == generation) {
            Some(binding) => {
                self.touch(number);
                Bound::Name(binding.name.clone())
            }
            None => Bound::Nothing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a slot that was never used or, if there is none, the least recently used of those that have
    /// rested. Half of all have rested, except for a while after a predecessor's death.
    fn free_slot(&self, writer: &Writer) -> Option<usize> {
        let taken = writer.slots.len();
        let never = self.slots.get(taken..).and_then(|rest| rest.iter().position(Slot::is_free));
        let any = || self.slots.iter().position(Slot::is_free);
        let free = never.map(|n| n + taken).or_else(|| (taken < MAX_NAMES).then(any).flatten());
        free.or_else(|| (!self.all_rest()).then(|| self.least_used(writer)).flatten())
    }

    fn least_used(&self, writer: &Writer) -> Option<usize> {
        let rested = |slot: &Slot| slot.rests_until.load(Ordering::Relaxed) <= writer.bound;
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| rested(slot));
        slots.min_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed)).map(|(number, _)| number)
    }

    /// Whether all slots must rest: a client may still hold an answer that a predecessor gave.
    fn all_rest(&self) -> bool {
        self.taken_up.is_some_and(|then| then.elapsed() < Duration::from_secs(TTL.into()))
    }

    fn touch(&self, number: usize) {
        if let Some(slot) = self.slots.get(number) {
            slot.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn addresses(&self, number: usize) -> Option<Addresses> {
        let binding = self.slots.get(number)?.binding.load_full()?;
        let index = binding.generation * MAX_NAMES as u32 + u32::try_from(number).ok()?;
        Some(Addresses {
            v4: Ipv4Addr::from_bits(V4 + index),
            v6: Ipv6Addr::from_bits(V6.to_bits() + u128::from(index)),
        })
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    fn is_free(&self) -> bool {
        self.binding.load().is_none()
    }
}

/// The index of an address in our ranges, if it is in one of them.
fn index(address: IpAddr) -> Option<u32> {
    let index = match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(V4)?,
        IpAddr::V6(v6) => u32::try_from(v6.to_bits().checked_sub(V6.to_bits())?).ok()?,
    };
    (index < ADDRESSES).then_some(index)
}

impl Binding {
    fn record(&self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        let name = self.name.as_str().as_bytes();
        let generation = u16::try_from(self.generation + 1).unwrap_or(u16::MAX).to_be_bytes();
        let head = [generation[0], generation[1], u8::try_from(name.len()).unwrap_or(0)];
        for (to, from) in record.iter_mut().zip(head.iter().chain(name)) {
            *to = *from;
        }
        record
    }

    fn read(record: &[u8; RECORD]) -> Option<Self> {
        let generation = u32::from(u16::from_be_bytes([record[0], record[1]])).checked_sub(1)?;
        let name = record.get(NAME_AT..NAME_AT + usize::from(record[2]))?;
        let name = DomainName::parse(std::str::from_utf8(name).ok()?).ok()?;
        (generation < GENERATIONS).then_some(Self { generation, name })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: usize) -> DomainName {
        DomainName::parse(&format!("n{n}.test")).unwrap()
    }

    #[test]
    fn one_name_one_address_of_each_family() {
        let book = Book::new();
        let a = book.bind(&name(1)).unwrap();
        assert_eq!(a.v4.to_string(), "198.18.0.0");
        assert_eq!(a.v6.to_string(), "fd63:6f66:0:2::");
        assert_eq!(book.bind(&name(1)).unwrap(), a);
        let b = book.bind(&name(2)).unwrap();
        assert_ne!(a, b);
        for ip in [IpAddr::V4(a.v4), a.v6.into(), IpAddr::V6(a.v4.to_ipv6_mapped())] {
            assert_eq!(book.at(ip), Bound::Name(name(1)));
        }
        assert_eq!(book.at("198.19.255.255".parse().unwrap()), Bound::Nothing);
        for foreign in ["198.17.255.255", "198.20.0.0", "127.0.0.1", "fd63:6f66:0:2::2:0", "::1"] {
            assert_eq!(book.at(foreign.parse().unwrap()), Bound::Foreign, "{foreign}");
        }
    }

    #[test]
    fn the_least_used_goes_and_its_address_leads_nowhere() {
        let book = Book::new();
        let first = book.bind(&name(0)).unwrap();
        let second = book.bind(&name(1)).unwrap();
        for n in 2..MAX_NAMES {
            book.bind(&name(n)).unwrap();
        }
        // A connection keeps a name.
        assert_eq!(book.at(first.v4.into()), Bound::Name(name(0)));
        let next = book.bind(&name(MAX_NAMES)).unwrap();
        assert_eq!(book.at(first.v4.into()), Bound::Name(name(0)));
        assert_eq!(book.at(second.v4.into()), Bound::Nothing, "never another name's");
        assert_eq!(book.at(next.v6.into()), Bound::Name(name(MAX_NAMES)));
        assert_eq!(book.known(&name(1)), None);
        assert_ne!(book.bind(&name(1)).unwrap(), second);
    }

    #[test]
    fn an_address_comes_back_only_after_its_slot_had_all_generations() {
        let book = Book::new();
        let first = book.bind(&name(0)).unwrap();
        for n in 1..MAX_NAMES {
            book.bind(&name(n)).unwrap();
        }
        // Its slot is the one that nobody uses, so that every new name would take it: it rests between two.
        let (mut had, mut new) = (1, 0);
        let mut before = None;
        while had < 3 {
            book.slots[0].used.store(0, Ordering::Relaxed);
            new += 1;
            let next = book.bind(&name(MAX_NAMES + new)).unwrap();
            assert_ne!(next, first);
            assert_eq!(book.at(first.v4.into()), Bound::Nothing);
            if book.slots[0].used.load(Ordering::Relaxed) > 0 {
                had += 1;
                assert!(before.is_none_or(|before| new - before > RESTS as usize), "{before:?} {new}");
                before = Some(new);
            }
        }
        // And it has all its generations before the first comes back.
        let had_all = Binding { generation: GENERATIONS - 1, name: name(0) };
        book.slots[0].binding.store(Some(had_all.into()));
        book.slots[0].rests_until.store(0, Ordering::Relaxed);
        book.slots[0].used.store(0, Ordering::Relaxed);
        assert_eq!(book.bind(&name(usize::MAX)).unwrap(), first);
    }

    #[test]
    fn a_successor_has_the_same_bindings() {
        let file = tempfile::tempfile().unwrap();
        let book = Book::kept_in(file.try_clone().unwrap()).unwrap();
        let bound: Vec<_> = (0..MAX_NAMES + 10).map(|n| (name(n), book.bind(&name(n)).unwrap())).collect();
        let mut next = Book::kept_in(file.try_clone().unwrap()).unwrap();
        for (name, addresses) in bound.iter().skip(10) {
            assert_eq!(next.known(name), Some(*addresses));
            assert_eq!(next.at(addresses.v4.into()), Bound::Name(name.clone()));
        }
        assert_eq!(next.known(&name(3)), None);
        // None is taken from its name while a client may go by it; whoever uses one keeps it for longer.
        assert_eq!(next.bind(&name(usize::MAX)).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        for (name, addresses) in bound.iter().skip(10) {
            assert_eq!(next.at(addresses.v6.into()), Bound::Name(name.clone()));
        }
        let unused = next.slots[7].used.swap(0, Ordering::Relaxed);
        assert!(unused > 0);
        next.taken_up = Instant::now().checked_sub(Duration::from_secs(TTL.into()));
        // A name that is bound now gets an address that nobody had.
        let fresh = next.bind(&name(usize::MAX)).unwrap();
        assert!(bound.iter().all(|(_, addresses)| *addresses != fresh));
        assert_eq!(next.slots[7].binding.load().as_ref().unwrap().name, name(usize::MAX));
        // One with free slots gives them at once.
        let file = tempfile::tempfile().unwrap();
        Book::kept_in(file.try_clone().unwrap()).unwrap().bind(&name(1)).unwrap();
        assert!(Book::kept_in(file).unwrap().bind(&name(2)).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            let book = Book::kept_in(file).unwrap();
            prop_assert!(book.bind(&name(1)).is_ok());
        }
    }
}
