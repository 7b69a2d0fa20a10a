//! The bytes of every type that is stored, sent or signed, pinned by size and SM3.
//!
//! A difference means that a node of this build no longer understands one of the last. If that is
//! wanted, the format version goes up and the new table, which the failing test prints, is put
//! here: editing the table is the approval.

#[cfg(test)]
mod golden {
    use std::collections::BTreeMap;

    use hufu_crypto::{Signer as _, Sm3, software_provider};
    use hufu_ledger::{
        Account, Asset, Holding, Mandate, Nonce, StateChanges, StateKey, StateTree, StateValue,
        Write,
    };
    use hufu_tests::accounts::{self, Accounts};
    use hufu_tests::examples::{self, Chain};
    use hufu_types::{Address, AssetCode, ChainId, Strength};
    use zerocopy::IntoBytes as _;

    /// Name, size in bytes, SM3 of the bytes.
    #[rustfmt::skip]
    const TABLE: &[(&str, usize, &str)] = &[
        ("public_key", 64, "527b7972bbd38ea5fd9c2d6b38b8de2a4c0760ce288e5d88bf4d6c6b3b2ce0a0"),
        ("address", 20, "18ad0624c7d31dc34d7acf666b9408727332218a986c41da08f653445f38ee8e"),
        ("genesis", 496, "bdb7f0e652861bd2b9b83daee36d458343afc0219eb8e129123bdb718d8bb86e"),
        ("chain_id", 32, "a1243789b6ff34707db225115d6cddf1195f99747ebcc3077d695065baad5c87"),
        ("validators_digest", 32, "bccfef7f4f5d0c5b322a4328f69a780f089c17bc51f51b02ee5019d0d665e578"),
        ("transaction/open_account", 216, "1f7c98891a3598e013efd2b9f4ae838ea8d13d00ccba219abc4ed678df72f5e7"),
        ("transaction/close_account", 216, "0b06785dd47582524576f33a16ef16a314c874332de52ad785df74ddb0908f30"),
        ("transaction/create_asset", 252, "808e5119830774fe617d3888f21de6fb6a5d27efa3b1679021bca50afe6aeb5e"),
        ("transaction/issue_asset", 248, "a822e6f194d1aba266c74e9b2661be857d48218973c3fe39624a34049ea00c1b"),
        ("transaction/redeem_asset", 248, "0556fe1f1b78a45767c129192929141175ff3033e710f600af073567cd26a9e6"),
        ("transaction/transfer", 268, "97b560ee6dab39bf2606c0c2aaf7f354fce552555c9f2bcc1aaa1bea98fe121c"),
        ("transaction/settle", 344, "3e5883230b653faa1b219158306a1b455ab4d4b1778d06c8ae01e25828fef46d"),
        ("transaction/grant_mandate", 256, "0733bc56cbe2d9f499442edda94e7f91ba85fb0374eedf69dcaef69e2bbc1e2d"),
        ("transaction/revoke_mandate", 232, "7af8d1e36ca54816f8e6fe9816e4725ce2f69d76cbbf302e6e2acf988294319c"),
        ("transaction/notarise", 247, "b46c79fde8c400dde42c3a3775814928b71912c9a42e27db9241e9785e4cd310"),
        ("transaction/freeze_holding", 232, "5b47359c176f324acb29fcc0680740c528ccbd46598747a48ab3ff64a80d9777"),
        ("transaction/unfreeze_holding", 232, "b0bc684322b6e0b6352d3a7ba81407d742030160aaae9bb6ec5d65e3d9e8c4e7"),
        ("transaction/all", 879, "8ffbc6c3ff74a77db19aa54c86f0cd62d02237d929d0309e49738a12a1741057"),
        ("batch", 776, "5d0a79aabfb92132ce0cbf32bf2b20b0e7f7d952d8af479f24ec9c4bf0ea2911"),
        ("batch_digest", 32, "ecd25d22b7aa610186253a161f3fff6c6bf06211c23a5f4067ea710904cfffb1"),
        ("tx_id", 32, "d3402215b39d63e4a17b9075eef5bac7d98ae6b80ca83ad71993fe56e3004595"),
        ("tx_digest", 32, "850bf761628da7f8c978d08dc28b29eb2df84309f612590c4f0f099ddcd34802"),
        ("block/1", 332, "ef1ef22fbaa2c2a5ee5f86c5a96346a4f92ed7f3183a480ab915c0e5b1ff163b"),
        ("block_header/1", 268, "447b2ee7f2ef0a64e249802835bf6965ab18113d7fba789572da1e3792ff347e"),
        ("block_digest/1", 32, "52eede96f2a67361e850494b9253894b2a474fd037128f3c46e4be809d80bb1a"),
        ("certificate/1", 220, "a062ba1bb736424ff489ba1bae4cc18414dae847d721992d3bd9641fc9e5601e"),
        ("block/2", 300, "4201a5b8af3f3a9e5145c874ef7627cfaba89e5a4cbe6ad3ac1aeb217dfacb03"),
        ("block_header/2", 268, "5280f49ec23cdac5fdfb303048054977346f67f0393a047bd1d3d78a88f9b64a"),
        ("block_digest/2", 32, "ee2409ef4119f71f2d0c304a10e67cdc482e875067a4863f5e239f0f6aaa6cf2"),
        ("certificate/2", 220, "d951ea3844331610e9cce936171d3a02cc0676e303cc211b132ad436905f2335"),
        ("block/3", 268, "476ef0e3a8c666f20815c5db1bdba62a6613fe834fc239d43bb1cc7e47da0a09"),
        ("block_header/3", 268, "476ef0e3a8c666f20815c5db1bdba62a6613fe834fc239d43bb1cc7e47da0a09"),
        ("block_digest/3", 32, "7eff9c5fa59a333fcbb4252498fc3171f4ef5ffd97b4185e50f1a1d2017d6689"),
        ("certificate/3", 220, "3548f25bde01b9bc049341ce577c5f9640e876d492ed3cd3fea4b459e9b65830"),
        ("vote", 104, "caf664f42c5c76d5518f3fd3d4e8c1127dc8be18811c858d2ef9df940e1767a0"),
        ("signed_vote", 168, "6401022c613ffc6fc50b9dfe3ba9f2282b614ec3e097409bfabf7e97074ba853"),
        ("signed_vote/nil", 168, "e9eafbca077497cae67a59413de8afdddad1eb4f703248f745ee1c53d6b14ac3"),
        ("proposal", 112, "f92d720b209d9ba1f6d1710fa99c4b4a18d303cd24d7210d44563dd60d9a7a09"),
        ("signed_proposal", 176, "4a5d4800b871e47b9f55e06f7c95a547ec627ef7dae934a505bdc02005f653ce"),
        ("signed_proposal/locked", 176, "27f085dbe615074bb0446dcdca33fe7b35aff2fbf0ad0209ddde1cb64dcd7960"),
        ("receipt/success", 116, "44bf65eeee8502b8039e619387f41102990bbfa23034937631f29dbcd8dace56"),
        ("receipt_leaf/success", 32, "1a01e234debd9b2fe520540786fba235540a47676a11d782ffbfde3d8d489b68"),
        ("receipt/failure", 116, "034b2b9c8c748086d358530f9676d17e1332b087f54a8098d7575ff57e39315e"),
        ("receipt_leaf/failure", 32, "59194c7294d520302351e978752b65e56f4d972d6935bc60323ff248d54ada62"),
        ("receipt/failure_whole", 116, "9d402de870c36e10d851f3e82df4e8d0a4157a27f96bbbab1ad068a4f5c34ebd"),
        ("receipt_leaf/failure_whole", 32, "1c7ac81a176b2742dc9182a83081e230ed7e8f63d79bf2481b52e613dee856be"),
        ("receipt_proof/committed", 864, "a0f8c773aec3f9651aabe8b72d676e844d587f04ddd79a72e355ab896a78e830"),
        ("receipt_proof/certified", 1450, "a07bfa1b9f7179a60020436b78054530682055057aef746e5cb72e724caabe2a"),
        ("state_key/account", 21, "a864868d5f0babf12391419c2cedae20dec719065080d2c2bba4085ed763003b"),
        ("state_value/account", 24, "ba816c275946089cbd20169dd449e94faa0e0f0be5053d6898c89fa391ac9725"),
        ("state_key/asset", 17, "d39d46094ed0c3f0988bf1de55453881b465486b679050a78c780fdf2bfbba09"),
        ("state_value/asset", 64, "a6f352ced9076a31d872536ea2c283cde58587bbced060e1bf1b54f86ab52e32"),
        ("state_key/holding", 37, "326d3b97945ab3b3d776813412f30ce540e26801e4f3d1c5ef8f8c66e0690439"),
        ("state_value/holding", 24, "c469d8e50fdf9d2551cc59be10fc948a5b5b4ea6702fa7201626fd9c967697c5"),
        ("state_key/mandate", 57, "e8418aed4b0af87995f1801d5a0b49e827a3d0d4832e2b46c75fbf92e3761aef"),
        ("state_value/mandate", 32, "7f29d8b0b4616885cac9c05c97f7cb7e2c290539905aa7fb776acc723b175e0e"),
        ("state_key/nonce", 29, "79b28da8970ad2d7832c631b7f8a4a879ff25c5a825c5863a28fd9fa3a18786b"),
        ("state_value/nonce", 16, "19917661588e3a87b9fe25a5fa435afbd8d052d811f3f4ff65f9d0e032c4ba1c"),
        ("state_root/empty", 32, "886c6cc032301a782d536e56c085a94a4f6d2a78a6ad58c7b21beb2e85e6c9df"),
        ("state_root/nonces", 32, "db875c12b9af0b90c41fc6218b0ae58e6b54619ce8d935e58f4a80cc70f0b78d"),
        ("state_record/row", 3844, "2538901483a809f587f7f56fdd2147371323d9cc77319f3c2340ea5095bb177f"),
        ("state_record/fork", 576, "fe3e5e0296659bf4e0c4b4eac305560ff9ea6c15b8304f02833cacbde25ba7f5"),
        ("state_record/all", 76911, "055f03f20eb01699d54b172c987f5d3b14ede11ad87697619e8c889c50c32956"),
        ("state_proof/present", 844, "bfdecc0e1a86d694d3a3475d4338339a6e76b4820c99024f114b9f6c24d3dca7"),
        ("state_proof/absent", 908, "f2d87cc45d12878ef21cf6e8cd6cd8ecf3882bfed0490653c2c7ea13e6ba11ff"),
        ("account_proof/present", 3124, "e35c1b8358025efa56702ac410909f4f4500ebaf1c20bfa7249428aff1aa8693"),
        ("account_proof/absent", 1037, "17de0da3428f806086f6c850c14b2de7844ef69820df718206a9fca7e0db72a8"),
    ];

    /// Every example with its bytes, in the order of the table.
    fn encodings() -> Vec<(String, Vec<u8>)> {
        let chain = Chain::new();
        let id = chain.id();
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |name: &str, bytes: &[u8]| all.push((name.to_owned(), bytes.to_vec()));

        add("public_key", examples::signer(1).public_key().as_bytes());
        add("address", examples::signer(1).public_key().address().as_bytes());
        add("genesis", &chain.genesis.to_bytes());
        add("chain_id", id.as_bytes());
        add("validators_digest", chain.genesis.validators.digest(id).as_bytes());

        let operations = examples::operations();
        for (name, operation) in &operations {
            let transaction = examples::transaction(id, 1, &[*operation]);
            add(&format!("transaction/{name}"), transaction.bytes());
        }
        let every: Vec<_> = operations.iter().map(|(_, operation)| *operation).collect();
        add("transaction/all", examples::transaction(id, u64::MAX, &every).bytes());

        let first = &chain.heights[0];
        add("batch", first.batches[0].bytes());
        add("batch_digest", first.batches[0].digest().as_bytes());
        add("tx_id", first.batches[0].entries()[0].id.as_bytes());
        add("tx_digest", first.batches[0].entries()[0].digest.as_bytes());
        for height in &chain.heights {
            let (number, block) = (height.block.height(), &height.block);
            let mut bytes = Vec::new();
            block.write(&mut bytes);
            add(&format!("block/{number}"), &bytes);
            add(&format!("block_header/{number}"), block.header().as_bytes());
            add(&format!("block_digest/{number}"), block.digest().as_bytes());
            let mut bytes = Vec::new();
            height.certificate.write(&mut bytes);
            add(&format!("certificate/{number}"), &bytes);
        }
        let precommit = examples::precommit(id, 1, first.block.digest(), 1);
        add("vote", precommit.vote.as_bytes());
        add("signed_vote", precommit.as_bytes());
        add("signed_vote/nil", examples::prevote_for_nil(id).as_bytes());
        let [proposal, locked] = examples::proposals(id);
        add("proposal", proposal.proposal.as_bytes());
        add("signed_proposal", proposal.as_bytes());
        add("signed_proposal/locked", locked.as_bytes());
        for (name, receipt) in ["success", "failure", "failure_whole"].iter().zip(&first.receipts) {
            add(&format!("receipt/{name}"), receipt.as_bytes());
            add(&format!("receipt_leaf/{name}"), receipt.leaf().as_bytes());
        }
        add("receipt_proof/committed", &chain.proof(1, 3, Strength::Committed).to_bytes());
        add("receipt_proof/certified", &chain.proof(1, 3, Strength::Certified).to_bytes());
        add_state(id, &mut add);
        let accounts = Accounts::new(&chain);
        for (name, address) in [("present", accounts::PRESENT), ("absent", accounts::ABSENT)] {
            add(&format!("account_proof/{name}"), &accounts.proof(&chain, address).to_bytes());
        }
        all
    }

    /// Keys and values of the state, and a state of so many nonces that some of its sixteen buckets
    /// are rows and some forks.
    fn add_state(id: ChainId, add: &mut impl FnMut(&str, &[u8])) {
        let (one, other, asset) =
            (Address([1; 20]), Address([2; 20]), AssetCode::new("BOND").unwrap());
        let open = Account { opened_at: 3, closed_at: None, holdings_count: 1, mandates_count: 0 };
        let bond =
            Asset { authority: one, decimals: 2, created_at: 4, supply_cap: 1 << 90, supply: 7 };
        let granted = Mandate { limit: 5, expires_at: 700, granted_at: 9 };
        let used = StateValue::Nonce(Nonce { valid_until: 605, used_at: 5 });
        let nonce = |nonce| StateKey::Nonce { sender: one, nonce };
        let mandate = StateKey::Mandate { owner: one, agent: other, asset };
        let entries = [
            ("account", StateKey::Account(one), StateValue::Account(open)),
            ("asset", StateKey::Asset(asset), StateValue::Asset(bond)),
            (
                "holding",
                StateKey::Holding(one, asset),
                StateValue::Holding(Holding { balance: 7, frozen: true }),
            ),
            ("mandate", mandate, StateValue::Mandate(granted)),
            ("nonce", nonce(8), used),
        ];
        for (name, key, value) in entries {
            add(&format!("state_key/{name}"), key.to_bytes().as_slice());
            add(&format!("state_value/{name}"), value.to_bytes().as_slice());
        }
        let hasher = &*software_provider().hasher;
        let mut tree = StateTree::new(id, 4, hasher);
        add("state_root/empty", tree.root().as_bytes());
        let write = |(key, value)| Write { key, before: None, value: Some(value) };
        let nonces = (100..1_150).map(|number| write((nonce(number), used)));
        let writes: Vec<Write> =
            entries.into_iter().map(|(_, key, value)| write((key, value))).chain(nonces).collect();
        let changes = StateChanges::new(id, 4, &writes, hasher);
        let update = tree.update(&changes);
        assert!(update.wanted().is_empty(), "nothing lies in an empty state");
        let applied = tree.apply(&update, hasher).unwrap();
        add("state_root/nonces", applied.root.as_bytes());
        let records: BTreeMap<Vec<u8>, Vec<u8>> = applied
            .records()
            .map(|(place, record)| (place.to_bytes().as_ref().to_vec(), record.unwrap().to_vec()))
            .collect();
        let top = |is_fork| {
            let found = records
                .iter()
                .find(|(key, record)| key.len() == 4 && (record.len() == 576) == is_fork);
            found.unwrap().1.as_slice()
        };
        add("state_record/row", top(false));
        add("state_record/fork", top(true));
        let all: Vec<u8> =
            records.iter().flat_map(|(key, record)| [&key[..], record].concat()).collect();
        add("state_record/all", &all);
        for (name, key) in [("present", nonce(100)), ("absent", nonce(1))] {
            let mut prover = tree.prove(&key);
            while let Some(place) = prover.wanted() {
                prover.supply(&records[place.to_bytes().as_ref()]).unwrap();
            }
            add(&format!("state_proof/{name}"), &prover.finish().to_bytes());
        }
    }

    #[test]
    fn bytes_are_those_of_the_table() {
        let found: Vec<(String, usize, String)> = encodings()
            .into_iter()
            .map(|(name, bytes)| (name, bytes.len(), Sm3::of(&[&bytes]).to_string()))
            .collect();
        let expected: Vec<(String, usize, String)> = TABLE
            .iter()
            .map(|(name, size, digest)| ((*name).to_owned(), *size, (*digest).to_owned()))
            .collect();
        if found == expected {
            return;
        }
        for row in found.iter().filter(|row| !expected.contains(row)) {
            println!("differs from the table: {}", row.0);
        }
        println!("the table of these bytes:");
        for (name, size, digest) in &found {
            println!("        (\"{name}\", {size}, \"{digest}\"),");
        }
        panic!("the encoding has changed: raise the format version and replace the table");
    }
}
