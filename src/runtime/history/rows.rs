//! Questions as statements, rows as publications.

use bytes::Bytes;

use crate::backplane::history::{
    EpochEnds, HistoryAsk, HistoryReply, PageWant, StoredRoom, Stretch,
};
use crate::model::limits::{PAGE_BYTES_MAX, PAGE_PUBLICATIONS_MAX};
use crate::model::{Epoch, Name, Publication, RoomName, Timestamp};
use crate::pg::{self, Param, Request, Row};

const PAGES: &str = include_str!("pages.sql");
const MISSING: &str = include_str!("missing.sql");
const ENDS: &str = include_str!("ends.sql");
const ROOMS: &str = include_str!("rooms.sql");

/// The statement that asks.
pub(super) fn request(ask: &HistoryAsk) -> Request {
    let text = |text: &str| Param::Text(text.to_owned());
    match ask {
        HistoryAsk::Pages { wants, .. } => {
            let texts = |of: fn(&PageWant) -> &str| {
                Param::Texts(wants.iter().map(|want| of(want).to_owned()).collect())
            };
            let from = wants.iter().map(|want| integer(want.from)).collect();
            let params = vec![
                texts(|want| want.room.as_str()),
                texts(|want| want.epoch.as_str()),
                Param::Ints(from),
                Param::Int(PAGE_PUBLICATIONS_MAX as i64),
                Param::Int(PAGE_BYTES_MAX as i64),
            ];
            Request::query(PAGES, params)
        }
        HistoryAsk::Missing(stretches) => {
            let texts = |of: fn(&Stretch) -> &str| {
                Param::Texts(stretches.iter().map(|it| of(it).to_owned()).collect())
            };
            let ints = |of: fn(&Stretch) -> u64| {
                Param::Ints(stretches.iter().map(|it| integer(of(it))).collect())
            };
            let params = vec![
                texts(|stretch| stretch.room.as_str()),
                texts(|stretch| stretch.epoch.as_str()),
                ints(|stretch| stretch.from),
                ints(|stretch| stretch.until),
            ];
            Request::query(MISSING, params)
        }
        HistoryAsk::Ends(room, epoch) => {
            Request::query(ENDS, vec![text(room.as_str()), text(epoch.as_str())])
        }
        HistoryAsk::Rooms(query) => {
            let limit = Param::Int(query.limit as i64);
            Request::query(ROOMS, vec![text(&query.prefix), text(&query.after), limit])
        }
    }
}

/// What the rows say.
pub(super) fn reply(ask: HistoryAsk, answer: &pg::Answer) -> HistoryReply {
    match ask {
        HistoryAsk::Pages { ticket, wants } => {
            let mut pages = vec![Vec::new(); wants.len()];
            for row in &answer.rows {
                let which = row.int(0).and_then(|n| usize::try_from(n - 1).ok());
                let want = which.and_then(|which| wants.get(which));
                // What is in the table and can't be a publication is a foreign hand's.
                if let (Some(which), Some(want)) = (which, want)
                    && let Some(publication) = publication(row, want)
                {
                    pages[which].push(publication);
                }
            }
            let pages = Ok(pages);
            HistoryReply::Pages { ticket, pages }
        }
        HistoryAsk::Missing(stretches) => {
            // Of what is not told nothing is known to be there.
            let mut missing: Vec<_> = stretches.iter().map(|it| Some(it.from)).collect();
            for row in &answer.rows {
                let which = row.int(0).and_then(|n| usize::try_from(n - 1).ok());
                let first = row.int(1).and_then(|offset| u64::try_from(offset).ok());
                if let (Some(which), Some(first)) = (which, first)
                    && let Some(stretch) = stretches.get(which)
                {
                    missing[which] = Some(first).filter(|&first| first < stretch.until);
                }
            }
            HistoryReply::Missing(Ok(missing))
        }
        HistoryAsk::Ends(room, epoch) => {
            let row = answer.rows.first();
            let last = row.and_then(|row| row.int(0)).unwrap_or(0);
            let previous = row.and_then(|row| row.text(1)).and_then(Epoch::parse);
            let last = u64::try_from(last).unwrap_or(0);
            HistoryReply::Ends(room, epoch, Ok(EpochEnds { last, previous }))
        }
        HistoryAsk::Rooms(query) => {
            let room = |row: &Row| {
                Some(StoredRoom {
                    room: RoomName::parse(row.text(0)?).ok()?,
                    epoch: Epoch::parse(row.text(1)?)?,
                    offset: u64::try_from(row.int(2)?).ok()?,
                    members: 0,
                })
            };
            let rooms = answer.rows.iter().filter_map(room).collect();
            HistoryReply::Rooms(query, Ok(rooms))
        }
    }
}

/// The answer to a question that can't be asked now.
pub(super) fn refusal(ask: HistoryAsk) -> HistoryReply {
    let why = "history can't be read now; try again later".to_owned();
    match ask {
        HistoryAsk::Pages { ticket, .. } => {
            let pages = Err(why);
            HistoryReply::Pages { ticket, pages }
        }
        HistoryAsk::Missing(_) => HistoryReply::Missing(Err(why)),
        HistoryAsk::Ends(room, epoch) => HistoryReply::Ends(room, epoch, Err(why)),
        HistoryAsk::Rooms(query) => HistoryReply::Rooms(query, Err(why)),
    }
}

fn publication(row: &Row, want: &PageWant) -> Option<Publication> {
    let own = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
    Some(Publication {
        room: want.room.clone(),
        epoch: want.epoch,
        offset: u64::try_from(row.int(1)?).ok()?,
        id: row.uuid(2)?,
        client_id_given: false,
        user_id: Name::from(row.text(3)?),
        username: row.text(4).map(Name::from),
        payload: row.shared(5).map(own)?,
        metadata: row.shared(6).map(own),
        sent_at: Timestamp(u64::try_from(row.timestamp_ms(7)?).ok()?),
    })
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
