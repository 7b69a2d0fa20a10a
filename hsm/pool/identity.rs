//! Whether a card is the one from before.

use crate::{CardIdentity, Error};

/// The first field in which two cards differ, as [`Error::CardChanged`]; the serial number first.
#[must_use]
pub fn difference(before: &CardIdentity, after: &CardIdentity) -> Option<Error> {
    let version = |(major, minor): (u8, u8)| format!("{major}.{minor}");
    let fields = |card: &CardIdentity| {
        [
            ("the token's serial number", card.token_serial.clone()),
            ("the token's manufacturer", card.token_manufacturer.clone()),
            ("the token's model", card.token_model.clone()),
            ("the token's label", card.token_label.clone()),
            ("the firmware", version(card.firmware_version)),
            ("the hardware", version(card.hardware_version)),
            ("the library's manufacturer", card.library_manufacturer.clone()),
            ("the library's version", version(card.library_version)),
        ]
    };
    let pairs = fields(before).into_iter().zip(fields(after));
    let mut changed = pairs.filter(|((_, before), (_, after))| before != after);
    changed.next().map(|((field, before), (_, after))| Error::CardChanged { field, before, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_field_that_changed_is_named() {
        let card = CardIdentity {
            library_manufacturer: "Tally".to_owned(),
            library_version: (1, 2),
            token_label: "node 1".to_owned(),
            token_manufacturer: "Tally".to_owned(),
            token_model: "T1".to_owned(),
            token_serial: "0001".to_owned(),
            firmware_version: (3, 4),
            hardware_version: (5, 6),
        };
        assert!(difference(&card, &card).is_none());
        type Change = fn(&mut CardIdentity);
        let changes: [(&str, Change); 8] = [
            ("serial", |card| card.token_serial = "0002".to_owned()),
            ("token's manufacturer", |card| card.token_manufacturer = "Other".to_owned()),
            ("model", |card| card.token_model = "T2".to_owned()),
            ("label", |card| card.token_label = "node 2".to_owned()),
            ("firmware", |card| card.firmware_version = (3, 5)),
            ("hardware", |card| card.hardware_version = (6, 6)),
            ("library's manufacturer", |card| card.library_manufacturer = "Other".to_owned()),
            ("library's version", |card| card.library_version = (1, 3)),
        ];
        for (name, change) in changes {
            let mut other = card.clone();
            change(&mut other);
            let error = difference(&card, &other).unwrap().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }
}
