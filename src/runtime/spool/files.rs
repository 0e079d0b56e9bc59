//! The files of a spool.
//!
//! `00000001.spool` and so on: segments of some 16 MiB, each a row of records; `position`: the
//! segment and how many of its records were handed over, as text, written now and then: to hand
//! some over again is harmless, to hand over gigabytes again is not.
//!
//! A segment of an earlier run is never appended to. Damage in one is told, and hides what follows
//! in it, not the next segment; at the end of the newest it is what a crash leaves of an append
//! that nobody was told of, and is cut off.
//!
//! Invariant: segments are without gaps in `first`, `count` of them; only the newest is open.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::backplane::redis::spool::{
    Decoded, Page, Record, SpoolFailure, decode, encode, record_bytes,
};
use crate::model::limits::{SPOOL_PAGE_BYTES, SPOOL_POSITION_RECORDS, SPOOL_SEGMENT_BYTES};

const POSITION_FILE: &str = "position";

/// One file.
#[derive(Debug)]
struct Segment {
    number: u32,
    /// Records before it.
    first: u64,
    count: u64,
    bytes: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// Where a page ended.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    segment: u32,
    records: u64,
    byte: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    /// The newest, if it may be appended to.
    newest: Option<File>,
    last_number: u32,
    /// Records of the oldest segment that were handed over by an earlier run: all that is counted
    /// here counts them too, and those who ask do not.
    skipped: u64,
    skipped_bytes: u64,
    released: u64,
    /// `released` when the position was saved.
    saved: u64,
    cursor: Option<Cursor>,
}

impl Files {
    /// Makes the directory or looks through what an earlier run left in it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut files = Self {
            dir: dir.to_owned(),
            segments: VecDeque::new(),
            newest: None,
            last_number: 0,
            skipped: 0,
            skipped_bytes: 0,
            released: 0,
            saved: 0,
            cursor: None,
        };
        let mut numbers: Vec<u32> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool"));
            numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        let (begin, handed_over) = files.position();
        // Numbers go on, though all of them be gone: what is below the position is done.
        files.last_number = begin.saturating_sub(1);
        for (i, &number) in numbers.iter().enumerate() {
            files.last_number = number;
            if number < begin {
                fs::remove_file(files.path(number))?;
                continue;
            }
            let skip = if number == begin { handed_over } else { 0 };
            files.look_through(number, skip, i + 1 == numbers.len())?;
        }
        files.released = files.skipped;
        files.saved = files.skipped;
        Ok(files)
    }

    /// Records and bytes that an earlier run left.
    pub(super) fn left(&self) -> (u64, u64) {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        (self.end() - self.skipped, bytes - self.skipped_bytes)
    }

    /// Writes records behind the others, durably, or none of them.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let is_full = |segment: &Segment| segment.bytes >= SPOOL_SEGMENT_BYTES;
        if self.segments.back().is_some_and(is_full) {
            self.newest = None;
        }
        if self.newest.is_none() {
            self.begin_segment()?;
        }
        let (Some(file), Some(segment)) = (&mut self.newest, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        let mut bytes = Vec::new();
        for record in records {
            encode(record, &mut bytes);
        }
        let result = file.write_all(&bytes).and_then(|()| file.sync_data());
        if let Err(error) = result {
            // After a failed sync nobody knows what the file has: it is not appended to again. If
            // it can't be cut, what is too much is not counted, and so not read in this run.
            let _ = file.set_len(segment.bytes);
            self.newest = None;
            if segment.count == 0 {
                let number = segment.number;
                self.segments.pop_back();
                let _ = fs::remove_file(self.path(number));
            }
            return Err(error);
        }
        segment.bytes += bytes.len() as u64;
        segment.count += records.len() as u64;
        Ok(())
    }

    /// A page of what follows upon so many records.
    pub(super) fn page(&mut self, after: u64) -> io::Result<Page> {
        let after = after + self.skipped;
        let mut page = Page::default();
        let Some(segment) = self.segments.iter().find(|segment| segment.end() > after) else {
            return Ok(page);
        };
        let file = File::open(self.path(segment.number))?;
        let known = self
            .cursor
            .filter(|cursor| cursor.segment == segment.number && cursor.records == after);
        let (mut records, mut byte) = known.map_or((segment.first, 0), |at| (at.records, at.byte));
        let mut want = SPOOL_PAGE_BYTES;
        'read: while records < segment.end() {
            let chunk = read_at(&file, byte, want)?;
            let mut at = 0;
            while records < segment.end() {
                match decode(&chunk[at..]) {
                    Decoded::Whole(record, size) => {
                        let is_over = page.bytes as usize + size > SPOOL_PAGE_BYTES;
                        if records >= after && is_over && !page.records.is_empty() {
                            break 'read;
                        }
                        (at, byte) = (at + size, byte + size as u64);
                        records += 1;
                        if records > after {
                            page.bytes += size as u64;
                            page.records.push(record);
                        }
                    }
                    Decoded::Short(need) if chunk.len() == want && need > want - at => {
                        want = need.max(SPOOL_PAGE_BYTES);
                        continue 'read;
                    }
                    Decoded::Short(_) | Decoded::Damaged => {
                        page.lost = segment.end() - records.max(after);
                        page.bytes += segment.bytes.saturating_sub(byte);
                        let path = self.path(segment.number);
                        let (path, lost) = (path.display(), page.lost);
                        tracing::error!(%path, byte, lost, "the spool is damaged");
                        break 'read;
                    }
                }
            }
        }
        self.cursor = Some(Cursor {
            segment: segment.number,
            records,
            byte,
        });
        Ok(page)
    }

    /// So many records are needed no longer: deletes the segments that have no other.
    pub(super) fn release(&mut self, upto: u64) {
        self.released = upto + self.skipped;
        let released = self.released;
        while let Some(oldest) = self.segments.front()
            && oldest.end() <= released
        {
            if self.segments.len() == 1 {
                self.newest = None;
            }
            let path = self.path(oldest.number);
            if let Err(error) = fs::remove_file(&path) {
                let path = path.display();
                tracing::warn!(%path, %error, "a file of the spool could not be deleted");
            }
            self.segments.pop_front();
        }
        let is_empty = self.segments.is_empty();
        if is_empty || self.released - self.saved >= SPOOL_POSITION_RECORDS {
            self.save_position();
        }
    }

    /// Writes down what was handed over. If that fails some of it is handed over again, at worst.
    pub(super) fn save_position(&mut self) {
        if self.saved == self.released {
            return;
        }
        self.saved = self.released;
        let oldest = self.segments.front();
        let (number, records) = oldest.map_or((self.last_number + 1, 0), |segment| {
            let handed_over = self.released.saturating_sub(segment.first);
            (segment.number, handed_over)
        });
        let (new, path) = (self.dir.join("position.new"), self.dir.join(POSITION_FILE));
        let written = fs::write(&new, format!("{number} {records}\n"));
        if let Err(error) = written.and_then(|()| fs::rename(&new, &path)) {
            let path = path.display();
            tracing::warn!(%path, %error, "what the spool handed over could not be written down");
        }
    }

    fn end(&self) -> u64 {
        self.segments
            .back()
            .map_or(self.released, |segment| segment.end())
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08}.spool"))
    }

    /// The segment in which what is not handed over begins, and how many records before.
    fn position(&self) -> (u32, u64) {
        let text = fs::read_to_string(self.dir.join(POSITION_FILE)).unwrap_or_default();
        let parsed = text.trim().split_once(' ').and_then(|(number, records)| {
            let number: u32 = number.parse().ok()?;
            Some((number, records.parse().ok()?))
        });
        parsed.unwrap_or_default()
    }

    /// Counts the records of a segment that an earlier run left.
    fn look_through(&mut self, number: u32, skip: u64, is_newest: bool) -> io::Result<()> {
        let path = self.path(number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let (length, first) = (file.metadata()?.len(), self.end());
        let (mut count, mut byte, mut want) = (0, 0, SPOOL_PAGE_BYTES);
        'read: while byte < length {
            let chunk = read_at(&file, byte, want)?;
            let mut at = 0;
            loop {
                match decode(&chunk[at..]) {
                    Decoded::Whole(record, size) => {
                        (at, byte, count) = (at + size, byte + size as u64, count + 1);
                        if count <= skip {
                            self.skipped = count;
                            self.skipped_bytes += record_bytes(&record.outgoing);
                        }
                    }
                    Decoded::Short(need) if chunk.len() == want && need > want - at => {
                        want = need.max(SPOOL_PAGE_BYTES);
                        continue 'read;
                    }
                    Decoded::Short(_) | Decoded::Damaged => break 'read,
                }
            }
        }
        if byte < length {
            let (path, lost) = (path.display(), length - byte);
            if is_newest {
                tracing::warn!(%path, byte, lost, "the end of the spool is torn: it is cut off");
                file.set_len(byte)?;
            } else {
                tracing::error!(%path, byte, lost, "the spool is damaged: messages are lost");
            }
        }
        if count == 0 {
            return fs::remove_file(self.path(number));
        }
        self.segments.push_back(Segment {
            number,
            first,
            count,
            bytes: byte,
        });
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.last_number + 1;
        let first = self.end();
        let path = self.path(number);
        let mut options = OpenOptions::new();
        // A file of this name could only be what a failed begin left.
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path)?;
        File::open(&self.dir)?.sync_all()?;
        self.newest = Some(file);
        self.last_number = number;
        self.segments.push_back(Segment {
            number,
            first,
            count: 0,
            bytes: 0,
        });
        Ok(())
    }
}

/// Up to so many bytes; fewer only at the file's end.
fn read_at(file: &File, byte: u64, want: usize) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; want];
    let mut filled = 0;
    while filled < want {
        match file.read_at(&mut chunk[filled..], byte + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(chunk)
}

/// What to do about an error of the file system's.
pub(super) fn failure(error: &io::Error) -> SpoolFailure {
    let why = error.to_string();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SpoolFailure::Full(why),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => SpoolFailure::ReadOnly(why),
        _ => SpoolFailure::Other(why),
    }
}
