//! What is offered, and what is answered.

use super::*;

fn answer(fields: &[&str], terms: Terms) -> Result<Option<String>, BadOffer> {
    let mut text = String::from("GET /ws HTTP/1.1\r\nHost: a\r\n");
    for field in fields {
        text.push_str(&format!("Sec-WebSocket-Extensions: {field}\r\n"));
    }
    text.push_str("\r\n");
    let (head, _) = head::parse(text.as_bytes()).unwrap().unwrap();
    negotiate(&head, terms).map(|agreed| agreed.map(|agreed| agreed.answer()))
}

/// `offer` is answered by `own` on `/echo` and by `shared` on `/ws`, or declined.
fn check(offer: &str, own: &str, shared: &str) {
    for (terms, want) in [(Terms::Own, own), (Terms::Shared, shared)] {
        let want = (want != DECLINED).then(|| format!("permessage-deflate{want}"));
        assert_eq!(answer(&[offer], terms), Ok(want), "{offer}");
    }
}

const DECLINED: &str = "declined";
const SHARED: &str = "; server_no_context_takeover; client_no_context_takeover";

#[test]
fn what_browsers_and_libraries_offer() {
    check("permessage-deflate", "", SHARED);
    check("permessage-deflate; client_max_window_bits", "", SHARED);
    check(
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        SHARED,
        SHARED,
    );
    check(
        "permessage-deflate;client_max_window_bits=12;server_max_window_bits=15",
        "; server_max_window_bits=15; client_max_window_bits=12",
        "; server_no_context_takeover; client_no_context_takeover; \
         server_max_window_bits=15; client_max_window_bits=12",
    );
    check("x-webkit-deflate-frame", DECLINED, DECLINED);
}

#[test]
fn a_smaller_window_than_all_share_is_declined_where_they_share() {
    for bits in 8..15 {
        let offer = format!("permessage-deflate; server_max_window_bits={bits}");
        check(
            &offer,
            &format!("; server_max_window_bits={bits}"),
            DECLINED,
        );
        // The next offer is taken instead.
        let both = format!("{offer}, permessage-deflate");
        check(&both, &format!("; server_max_window_bits={bits}"), SHARED);
    }
}

#[test]
fn bad_parameters_are_declined_and_the_next_offer_is_looked_at() {
    for parameter in [
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=08",
        "server_max_window_bits=+9",
        "server_max_window_bits=9.0",
        "client_max_window_bits=0",
        "client_max_window_bits=115",
        "client_max_window_bits=x",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "client_no_context_takeover; client_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=9",
        "Client_No_Context_Takeover",
        "something_else",
        "something=else",
    ] {
        let offer = format!("permessage-deflate; {parameter}");
        check(&offer, DECLINED, DECLINED);
        check(
            &format!("foo;bar=1, {offer}, permessage-deflate"),
            "",
            SHARED,
        );
    }
    check("Permessage-Deflate", DECLINED, DECLINED);
    check("", DECLINED, DECLINED);
    check(" , ,, permessage-deflate ,", "", SHARED);
    check(
        "permessage-deflate; client_max_window_bits=\"9\"",
        "; client_max_window_bits=9",
        "; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=9",
    );
}

#[test]
fn offers_may_come_in_several_fields() {
    let fields = [
        "foo",
        "permessage-deflate; server_max_window_bits=x",
        "permessage-deflate",
    ];
    let got = answer(&fields, Terms::Own);
    assert_eq!(got, Ok(Some("permessage-deflate".to_owned())));
    assert_eq!(answer(&[], Terms::Own), Ok(None));
}

#[test]
fn what_is_no_list_of_extensions_fails_the_handshake() {
    for field in [
        "permessage-deflate;",
        "permessage-deflate; =9",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=\"9",
        "permessage-deflate; client_max_window_bits=\"\"",
        "permessage-deflate client_max_window_bits",
        "permessage-deflate; a=b=c",
        "permessage-deflate, b@d",
        "/",
    ] {
        assert_eq!(answer(&[field], Terms::Own), Err(BadOffer), "{field}");
        assert_eq!(
            answer(&["permessage-deflate", field], Terms::Shared),
            Err(BadOffer)
        );
    }
}
