PRAGMA user_version=3;
BEGIN TRANSACTION;
CREATE TABLE marks (name TEXT PRIMARY KEY, round INTEGER NOT NULL, since TEXT NOT NULL) STRICT;
INSERT INTO "marks" VALUES('promoted',4,'2026-11-23T03:11:11Z');
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, task TEXT NOT NULL, state TEXT NOT NULL, weights TEXT, moments TEXT
, made TEXT, strategy TEXT NOT NULL DEFAULT '', scores TEXT NOT NULL DEFAULT '{}', began TEXT NOT NULL DEFAULT '', ended TEXT NOT NULL DEFAULT '', origin INTEGER) STRICT;
INSERT INTO "rounds" VALUES(1,'{"round": 1, "program": {"digest": "1310ca2c8932dbd118668bd97442558a3e1f546b5e15c69699dfbd6024f548d8", "size": 7}, "weights": {"digest": "3c2c0281c4093b065ae1446e6b56762eb5108a2fa5e92873b86116b751a61abe", "size": 7}, "plan": {"epochs": 2, "steps": 0, "learning_rate": 0.1, "momentum": 0.0, "nesterov": false, "second_moment": 0.0, "weight_decay": 0.0, "proximal": 0.0, "clip_norm": 0.0, "codec": "float32", "time_budget": 0.0}, "share": 1.0, "seed": 3, "deadline": 600.0, "patch": null}','closed',NULL,NULL,NULL,'','{}','','',NULL);
INSERT INTO "rounds" VALUES(2,'{"round": 2, "program": {"digest": "1310ca2c8932dbd118668bd97442558a3e1f546b5e15c69699dfbd6024f548d8", "size": 7}, "weights": {"digest": "cd36b49d7b2a8b5e4e13663cb54c5e1338c17b7d3af1c506fb3842bd08291822", "size": 7}, "plan": {"epochs": 2, "steps": 0, "learning_rate": 0.1, "momentum": 0.0, "nesterov": false, "second_moment": 0.0, "weight_decay": 0.0, "proximal": 0.0, "clip_norm": 0.0, "codec": "float32", "time_budget": 0.0}, "share": 1.0, "seed": 3, "deadline": 600.0, "patch": null}','closed','97e2521720cb4b3821c7ed9df7dbca7a63e04b42ba05ffe3e15dc992f227ae36','23da92bb4757f3c4d2da48d993dc20d20f60f0fac0bbb7137710a376fc82b4b2','97e2521720cb4b3821c7ed9df7dbca7a63e04b42ba05ffe3e15dc992f227ae36','','{}','','',NULL);
INSERT INTO "rounds" VALUES(3,'{"round": 3, "program": {"digest": "1310ca2c8932dbd118668bd97442558a3e1f546b5e15c69699dfbd6024f548d8", "size": 7}, "weights": {"digest": "97e2521720cb4b3821c7ed9df7dbca7a63e04b42ba05ffe3e15dc992f227ae36", "size": 7}, "plan": {"epochs": 2, "steps": 0, "learning_rate": 0.1, "momentum": 0.0, "nesterov": false, "second_moment": 0.0, "weight_decay": 0.0, "proximal": 0.0, "clip_norm": 0.0, "codec": "float32", "time_budget": 0.0}, "share": 1.0, "seed": 3, "deadline": 600.0, "patch": null}','closed','a63f0dfe98cc2a03a21873a3ab0d209eae44045e3810b79a104d42783e2ca194','105d559ee5d0b9a02e503f88f82d689cc52e4ab0f163ce066100d6a62d2a70c1','a63f0dfe98cc2a03a21873a3ab0d209eae44045e3810b79a104d42783e2ca194','','{}','','',NULL);
INSERT INTO "rounds" VALUES(4,'{"round": 4, "program": {"digest": "1310ca2c8932dbd118668bd97442558a3e1f546b5e15c69699dfbd6024f548d8", "size": 7}, "weights": {"digest": "a63f0dfe98cc2a03a21873a3ab0d209eae44045e3810b79a104d42783e2ca194", "size": 7}, "plan": {"epochs": 2, "steps": 0, "learning_rate": 0.1, "momentum": 0.0, "nesterov": false, "second_moment": 0.0, "weight_decay": 0.0, "proximal": 0.0, "clip_norm": 0.0, "codec": "float32", "time_budget": 0.0}, "share": 1.0, "seed": 3, "deadline": 600.0, "patch": null}','closed','47b98be17c1c80f2a85cd3013c745ec8379b9b591b103c675169996da479f7dd','9b7ee14eaab75b71062d3427bd60ff3efdd438314c9bfddd9bbd7bd35c9bc064','47b98be17c1c80f2a85cd3013c745ec8379b9b591b103c675169996da479f7dd','','{"loss": 0.25}','','',NULL);
INSERT INTO "rounds" VALUES(5,'{"round": 5, "program": {"digest": "1310ca2c8932dbd118668bd97442558a3e1f546b5e15c69699dfbd6024f548d8", "size": 7}, "weights": {"digest": "47b98be17c1c80f2a85cd3013c745ec8379b9b591b103c675169996da479f7dd", "size": 7}, "plan": {"epochs": 2, "steps": 0, "learning_rate": 0.1, "momentum": 0.0, "nesterov": false, "second_moment": 0.0, "weight_decay": 0.0, "proximal": 0.0, "clip_norm": 0.0, "codec": "float32", "time_budget": 0.0}, "share": 1.0, "seed": 3, "deadline": 600.0, "patch": null}','open',NULL,NULL,NULL,'','{}','','',NULL);
CREATE TABLE updates (
    round INTEGER NOT NULL, device TEXT NOT NULL, examples INTEGER NOT NULL, codec TEXT NOT NULL,
    start INTEGER NOT NULL, size INTEGER NOT NULL, delta TEXT NOT NULL, metrics TEXT NOT NULL,
    PRIMARY KEY (round, device)
) STRICT;
INSERT INTO "updates" VALUES(1,'a',10,'float32',0,12,'41d65e69442d3fa6e2c2df9aca44663a514615355f7e2c782d5e3940aacb78ea','{"loss": 0.5}');
INSERT INTO "updates" VALUES(1,'b',20,'float32',12,12,'401838eb2e5d1529cfee8a31a9d3db60355cb67e27bf6523ebcbfff4360b0f22','{"loss": 0.5}');
INSERT INTO "updates" VALUES(2,'a',10,'float32',0,12,'e23e27fc26befadd692e542c8832eddd5008bddb7ebecae8542e139c920cc4e5','{"loss": 0.5}');
INSERT INTO "updates" VALUES(2,'b',20,'float32',12,12,'52629ccfbd572ac0ebe140c375cd5d2a13681e1158769d5730860c2283136d6d','{"loss": 0.5}');
INSERT INTO "updates" VALUES(3,'a',10,'float32',0,12,'d7b3fc29c64e4aadfc095202cc0b993262830e51cdcdad82a011c1c3babb7b37','{"loss": 0.5}');
INSERT INTO "updates" VALUES(3,'b',20,'float32',12,12,'b43cb621f2646e8d3c22d66c65271a194fbd02566768674790b86f32371ac6be','{"loss": 0.5}');
INSERT INTO "updates" VALUES(4,'a',10,'float32',0,12,'0d0f0f9792a413950ca706fcc701be92fe565f3f312702ae673b7ae2c382c967','{"loss": 0.5}');
INSERT INTO "updates" VALUES(4,'b',20,'float32',12,12,'040025df1dc011d4e649e8ee15674882469bd812e30785f6d160aec33639948f','{"loss": 0.5}');
INSERT INTO "updates" VALUES(5,'a',10,'float32',0,12,'1f5b27874039f247d5ef6bb56b558f66073186c3a0cc3e0bb52bc8c596abe8e9','{"loss": 0.5}');
INSERT INTO "updates" VALUES(5,'b',20,'float32',12,12,'c934403aa1c9b2160703a819f73714cf448da9e6fb3861e3709e5962f2f5a028','{"loss": 0.5}');
COMMIT;
