//! The files of the spool: order, release, what a crash leaves, damage, a full disk.

use std::fs;
use std::process::Command;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::backplane::redis::publisher::Outgoing;
use crate::backplane::redis::spool::{Record, SpoolFailure, record_bytes};
use crate::model::limits::{SPOOL_PAGE_BYTES, SPOOL_SEGMENT_BYTES};
use crate::model::{MessageId, RoomName, Timestamp};

fn record(number: u64, payload: usize) -> Record {
    let outgoing = Outgoing {
        number,
        id: MessageId::from_u128(u128::from(number)),
        client_given: true,
        room: RoomName::parse("room").unwrap(),
        user_id: "user".into(),
        username: None,
        payload: Bytes::from(vec![b'1'; payload]),
        metadata: None,
        sent_at: Timestamp(1),
    };
    let producer = [3; 16];
    Record { producer, outgoing }
}

fn records(numbers: std::ops::RangeInclusive<u64>, payload: usize) -> Vec<Record> {
    numbers.map(|number| record(number, payload)).collect()
}

/// Reads all that follows, page by page: numbers, and how many are lost.
fn read_all(files: &mut Files, mut after: u64) -> (Vec<u64>, u64) {
    let (mut numbers, mut lost) = (Vec::new(), 0);
    loop {
        let page = files.page(after).unwrap();
        if page.records.is_empty() && page.lost == 0 {
            return (numbers, lost);
        }
        let alone = page.records.len() == 1;
        assert!(alone || page.lost > 0 || page.bytes as usize <= SPOOL_PAGE_BYTES);
        after += page.records.len() as u64 + page.lost;
        lost += page.lost;
        numbers.extend(page.records.iter().map(|record| record.outgoing.number));
    }
}

fn segments(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".spool")).collect();
    names.sort();
    names
}

#[test]
fn the_thread_answers_in_order_and_another_run_finds_what_is_left() {
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool/0");
    let (sender, events) = crossbeam_channel::unbounded();
    let (handle, thread) = start(&spool, move |event| sender.send(event).unwrap()).unwrap();
    handle.ask(SpoolAsk::Append(records(1..=2, 10)));
    handle.ask(SpoolAsk::Append(records(3..=5, 10)));
    handle.ask(SpoolAsk::Read { after: 1 });
    handle.ask(SpoolAsk::Release { upto: 3 });
    drop(handle);
    thread.join().unwrap();
    let opened = SpoolEvent::Opened {
        records: 0,
        bytes: 0,
    };
    let appended = |count| SpoolEvent::Appended {
        count,
        result: Ok(()),
    };
    let events: Vec<_> = events.iter().collect();
    assert_eq!(events[..3], [opened, appended(2), appended(3)]);
    let SpoolEvent::Read { result, .. } = &events[3] else {
        panic!("{events:?}");
    };
    assert_eq!(result.as_ref().unwrap().records, records(2..=5, 10));

    let mut files = Files::open(&spool).unwrap();
    let bytes = record_bytes(&record(1, 10).outgoing);
    assert_eq!(files.left(), (2, 2 * bytes), "3 were handed over");
    assert_eq!(read_all(&mut files, 0), (vec![4, 5], 0));
    files.append(&records(6..=6, 10)).unwrap();
    assert_eq!(read_all(&mut files, 1), (vec![5, 6], 0));
    files.release(3);
    let mut files = Files::open(&spool).unwrap();
    assert_eq!(files.left(), (0, 0));
    files.append(&records(7..=7, 10)).unwrap();
    assert_eq!(Files::open(&spool).unwrap().left(), (1, bytes));
}

#[test]
fn segments_are_read_in_pages_and_deleted_when_done() {
    let dir = TempDir::new().unwrap();
    let mut files = Files::open(dir.path()).unwrap();
    // A page has two of them, and one is larger than a page.
    for number in 1..=90 {
        let payload = if number == 50 { 3 << 20 } else { 400_000 };
        files.append(&[record(number, payload)]).unwrap();
    }
    assert_eq!(segments(&dir).len(), 3);
    let all: Vec<_> = (1..=90).collect();
    assert_eq!(read_all(&mut files, 0), (all.clone(), 0));
    assert_eq!(read_all(&mut files, 48), (all[48..].to_vec(), 0), "again");
    files.release(45);
    assert_eq!(segments(&dir).len(), 2);
    assert_eq!(read_all(&mut files, 45), (all[45..].to_vec(), 0));
    // A kill: the position was not saved since, and some are handed over again.
    drop(files);
    let mut files = Files::open(dir.path()).unwrap();
    let (left, bytes) = files.left();
    assert!((45..90).contains(&left) && bytes <= 3 * SPOOL_SEGMENT_BYTES);
    let from = 90 - left as usize;
    assert_eq!(read_all(&mut files, 0), (all[from..].to_vec(), 0));
    files.release(left);
    assert!(segments(&dir).is_empty());
}

#[test]
fn a_torn_end_is_cut_and_damage_hides_no_other_segment() {
    let dir = TempDir::new().unwrap();
    let bytes = record_bytes(&record(1, 100).outgoing);
    for run in 0..3_u64 {
        let mut files = Files::open(dir.path()).unwrap();
        let first = run * 10 + 1;
        files.append(&records(first..=first + 9, 100)).unwrap();
    }
    let names = segments(&dir);
    assert_eq!(names.len(), 3, "another run begins another");
    let path = |i: usize| dir.path().join(&names[i]);
    let newest = fs::read(path(2)).unwrap();
    fs::write(path(2), &newest[..newest.len() - 1]).unwrap();
    let mut files = Files::open(dir.path()).unwrap();
    assert_eq!(files.left(), (29, 29 * bytes));
    assert_eq!(fs::metadata(path(2)).unwrap().len(), 9 * bytes);

    // The disk forgets while we run, and while we don't.
    let mut damaged = fs::read(path(1)).unwrap();
    damaged[(5 * bytes + 50) as usize] ^= 4;
    fs::write(path(1), damaged).unwrap();
    let want: Vec<_> = (1..=15).chain(21..=29).collect();
    assert_eq!(read_all(&mut files, 0), (want.clone(), 5));
    let page = files.page(17).unwrap();
    assert_eq!((page.records.len(), page.lost), (0, 3));
    drop(files);
    let mut files = Files::open(dir.path()).unwrap();
    assert_eq!(files.left(), (24, 24 * bytes));
    assert_eq!(read_all(&mut files, 0), (want, 0));
}

#[test]
fn errors_say_what_to_do() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = start(&dir.path().join("file"), |_| {}).unwrap_err();
    assert!(error.contains("--data-dir"), "{error}");
    for (code, want) in [
        (28, "free some room"),
        (122, "free some room"),
        (30, "mount"),
        (13, "owner"),
        (5, "errors of the disk"),
    ] {
        let text = failure(&std::io::Error::from_raw_os_error(code)).to_string();
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_heals() {
    let dir = TempDir::new().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a file system of 8 MiB may not be mounted here");
        return;
    }
    let mut files = Files::open(dir.path()).unwrap();
    let ballast = dir.path().join("ballast");
    fs::write(&ballast, vec![0; 4 << 20]).unwrap();
    files.append(&records(1..=3, 1_000_000)).unwrap();
    let error = files.append(&records(4..=6, 1_000_000)).unwrap_err();
    assert!(matches!(failure(&error), SpoolFailure::Full(_)), "{error}");
    files.append(&records(4..=4, 10)).unwrap();
    fs::remove_file(&ballast).unwrap();
    files.append(&records(7..=8, 1_000_000)).unwrap();
    let want = vec![1, 2, 3, 4, 7, 8];
    assert_eq!(read_all(&mut files, 0), (want.clone(), 0));
    drop(files);
    let mut files = Files::open(dir.path()).unwrap();
    assert_eq!(read_all(&mut files, 0), (want, 0));
    drop(files);
    let _ = Command::new("umount").arg(dir.path()).output();
}
