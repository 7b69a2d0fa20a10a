//! Validators of four whose vote keys live in cards that come and go, under load.

use std::fs;
use std::path::Path;
use std::process::Command;

use hufu_node::localnet::cards;
use hufu_types::PublicKey;

use crate::chain::Chain;
use crate::four::{COUNT, Four, node_folder};
use crate::load::Loader;
use crate::node::{binary, wait_until};

/// Receipts between two faults, count.
const SOME: usize = 300;

/// The nodes whose vote keys live in cards: two of the four, by two vendors.
const WITH_CARDS: [usize; 2] = [1, 2];

/// One hour: the device is away until it is brought back.
const UNTIL_BROUGHT_BACK_MILLIS: &str = "3600000";

/// Puts a vote key made in a card in the place of the one in software.
fn vote_key(folder: &Path, index: usize) -> Option<PublicKey> {
    if !WITH_CARDS.contains(&index) {
        return None;
    }
    let number = u16::try_from(index).unwrap();
    let key = cards::make_with(&binary(), folder, number).unwrap();
    fs::rename(folder.join(cards::KEY_FILE), folder.join("vote.pem")).unwrap();
    Some(key)
}

fn four() -> Four {
    let chain = Chain::with("cards", COUNT, vote_key);
    Four::of(chain, |chain, index| node_folder(chain, index).join("data"))
}

fn fault(four: &Four, index: usize, arguments: &[&str]) {
    let config = node_folder(&four.chain, index).join("softtoken.toml");
    let mut tool = Command::new(binary().with_file_name("hufu-softtoken"));
    tool.arg("--config").arg(config).arg("fault").args(arguments);
    assert!(tool.status().unwrap().success());
}

fn remove_device(four: &Four, index: usize, millis: &str) {
    fault(four, index, &["removed", "--millis", millis]);
}

fn is_card_away(four: &Four, index: usize) -> bool {
    four.metrics(index).get("hufu_sign_card_away") > 0
}

#[test]
fn a_validator_whose_card_is_away_follows_serves_and_votes_again() {
    let four = four().open();
    let loaders = four.load(&[0, 1]);
    four.record.wait_for_more(SOME);

    let agent = ["-KILL", "-P", &four.nodes[2].id().to_string()];
    assert!(Command::new("pkill").args(agent).status().unwrap().success(), "it has an agent");
    let restarted = "hufu_sign_attempts_failed_total";
    wait_until("a signature that failed", || four.metrics(2).get(restarted) > 0);
    let count = four.signed(2);
    wait_until("a new agent, and votes", || four.signed(2) > count + 10);

    remove_device(&four, 1, UNTIL_BROUGHT_BACK_MILLIS);
    wait_until("a card that is away", || is_card_away(&four, 1));
    wait_until("words about it", || four.explain(1)["signer_late_millis"].is_u64());
    let count = four.signed(1);
    // It follows, and its clients, who are served by it alone, get their receipts.
    let target = four.tip(0) + 30;
    wait_until("heights without its votes", || four.tip(1) >= target);
    let own = four.load(&[1]);
    four.record.wait_for_more(SOME);
    own.into_iter().for_each(Loader::finish);
    assert!(is_card_away(&four, 1), "the device is still away");
    assert_eq!(four.signed(1), count, "nothing was signed in its place");

    remove_device(&four, 1, "0");
    wait_until("votes again", || four.signed(1) > count + 10);
    assert!(!is_card_away(&four, 1));
    four.record.wait_for_more(SOME);
    loaders.into_iter().for_each(Loader::finish);
    four.record.with(|promises| assert!(promises.refused.is_empty(), "{:?}", promises.refused));
    four.finish();
}

#[test]
fn a_node_whose_card_is_away_stops_when_it_is_told_to() {
    let mut four = four().open();
    let loaders = four.load(&[0]);
    remove_device(&four, 1, UNTIL_BROUGHT_BACK_MILLIS);
    wait_until("a card that is away", || is_card_away(&four, 1));
    four.nodes[1].stop();
    // Started anew it waits for its card, and does not take what was there for a mistake.
    four.nodes[1].start();
    let agent = ["-P", &four.nodes[1].id().to_string()];
    wait_until("an agent", || Command::new("pgrep").args(agent).status().unwrap().success());
    four.nodes[1].stop();
    remove_device(&four, 1, "0");
    four.start(&[1]);
    wait_until("votes again", || four.signed(1) > 0);
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

#[test]
fn a_card_that_signs_wrongly_costs_its_validators_votes_and_not_the_node() {
    let mut four = four().open();
    let loaders = four.load(&[0, 1]);
    four.record.wait_for_more(SOME);
    fault(&four, 2, &["garbage", "--kind", "flipped-bit", "--one-in", "1"]);
    let refused = "hufu_sign_card_refused";
    wait_until("a card that is given up", || four.metrics(2).get(refused) > 0);
    fault(&four, 2, &["clear"]);
    let count = four.signed(2);
    let target = four.tip(0) + 20;
    wait_until("heights without its votes", || four.tip(2) >= target);
    assert_eq!(four.signed(2), count, "it is not asked again, though it would sign");
    four.nodes[2].stop();
    four.start(&[2]);
    wait_until("votes again", || four.signed(2) > 0);
    four.record.wait_for_more(SOME);
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}
