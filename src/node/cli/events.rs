//! `hufu events`: the chain's events as lines, from a cursor, without loss or duplicate.

use std::time::Duration;

use clap::Args;
use hufu_network::{Client, Cursor, Event, EventContent, Filter, SubscribeStart};
use hufu_types::{Address, Strength};
use serde_json::{Value, json};

use super::CliError;
use super::genesis::parse_address;
use super::remote::Remote;
use super::tx::receipt_json;
use crate::output::Output;

#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    remote: Remote,
    /// Where to begin, as HEIGHT or HEIGHT:INDEX; with the next block if left out.
    #[arg(long, value_parser = parse_cursor)]
    from: Option<Cursor>,
    /// Only transactions that this account sent or that name it.
    #[arg(long, value_parser = parse_address)]
    account: Option<Address>,
    /// Stop after this many events.
    #[arg(long)]
    count: Option<u64>,
}

/// How long one look for events takes; the stream goes on after it, if somebody still reads it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Events that may be on their way at once.
const WINDOW: u32 = 4_096;

/// Prints events until the stream ends, the count is reached, nobody reads them any more, or
/// someone interrupts.
pub(super) fn run(events: &Events, output: Output) -> Result<(), CliError> {
    let mut client = events.remote.connect()?;
    let start = events.from.map_or(SubscribeStart::Now, SubscribeStart::At);
    let filter = events.account.map_or(Filter::All, Filter::Account);
    let failed = |error| events.remote.failed(&error);
    client.subscribe(start, filter, WINDOW).map_err(failed)?;
    let mut printed: u64 = 0;
    while events.count.is_none_or(|count| printed < count) {
        let event = next(&mut client, events)?;
        if event.is_none() && !output.has_reader() {
            return Ok(());
        }
        if let Some(event) = event {
            let line = if output.is_json() { to_json(&event).to_string() } else { text(&event) };
            if output.stream(line).is_err() {
                return Ok(());
            }
            printed += 1;
        }
    }
    Ok(())
}

fn next(client: &mut Client, events: &Events) -> Result<Option<Event>, CliError> {
    let event = client.next_event(PATIENCE).map_err(|error| events.remote.failed(&error))?;
    Ok(event.map(|(_, event)| event))
}

fn to_json(event: &Event) -> Value {
    let cursor = json!({ "height": event.cursor.height, "index": event.cursor.index });
    match &event.content {
        EventContent::Transaction { sender, receipt } => {
            let mut value = receipt_json(receipt, Strength::Committed);
            value["event"] = "transaction".into();
            value["sender"] = sender.to_string().into();
            value["cursor"] = cursor;
            value
        }
        EventContent::Block(header) => json!({
            "event": "block",
            "cursor": cursor,
            "height": header.height.get(),
            "block": header.digest().to_string(),
            "time_millis": header.time_millis.get(),
        }),
    }
}

fn text(event: &Event) -> String {
    let Cursor { height, index } = event.cursor;
    match &event.content {
        EventContent::Transaction { sender, receipt } => {
            let result = match receipt.outcome() {
                Ok(Ok(())) => "done".to_owned(),
                Ok(Err(failure)) => format!("failed {}", failure.code),
                Err(_) => "unknown result".to_owned(),
            };
            format!("{height}:{index} transaction {} of {sender} {result}", receipt.id)
        }
        EventContent::Block(header) => {
            format!("{height}:{index} block {}", header.digest())
        }
    }
}

fn parse_cursor(text: &str) -> Result<Cursor, String> {
    let wrong = |_| "a cursor is HEIGHT or HEIGHT:INDEX".to_owned();
    let (height, index) = text.split_once(':').unwrap_or((text, "0"));
    Ok(Cursor { height: height.parse().map_err(wrong)?, index: index.parse().map_err(wrong)? })
}
