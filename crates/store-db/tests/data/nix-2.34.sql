PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null,
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer,
    sigs             text,
    ca               text
);
INSERT INTO ValidPaths VALUES(1,'/nix/store/wsapfasykqjyaw5h4glxcsgprzxp7bjd-a','sha256:1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13',1795576909,NULL,120,NULL,NULL,'fixed:r:sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw');
INSERT INTO ValidPaths VALUES(2,'/nix/store/gmzdrk8k0jbnbvvdf0517iyixgkvqnil-t','sha256:e709f6c6237b11f9223fb9b5b71f1995fa0bea283fb8c3264ade8cf68ad1e3fc',1795576909,NULL,120,NULL,NULL,'text:sha256:1lf969yddshzhld7sr1vbagr07bnygg99lgl6gk5kxcnp4z9wbcq');
INSERT INTO ValidPaths VALUES(3,'/nix/store/n9vgb2r834yxjzwpxa6qj74dyd1vzslv-x.drv','sha256:2616d1a4ccf2cffd9ab284d610f76a7e0e7cd4618bb8f2e90851f5561e896066',1795576909,NULL,560,NULL,NULL,'text:sha256:0k45a0sz46imwfnx24b1imv0xbsadi0pi1g94q6dc9z6h4jpxjy5');
INSERT INTO ValidPaths VALUES(4,'/nix/store/aq85zj5m874qxn4fllv639v6896h4p50-c.drv','sha256:7f5b1beee9fac7bbf0a21782280d471d6b2da2d3a9c01b7ceee4518dcdbeb1be',1795576909,NULL,488,NULL,NULL,'text:sha256:1m1gfzwqll8q2kchsx0m7k3v81nsm6vyin5psbcrabkxxm0vs4v9');
INSERT INTO ValidPaths VALUES(5,'/nix/store/d6b4v1dssdqg5nwha5j2d5g7yzcwmqid-c','sha256:82e0561e2d5a4079a0fd87c98f3194f27d24bcad5ad4447a1592018c38e4623f',1795576909,'/nix/store/aq85zj5m874qxn4fllv639v6896h4p50-c.drv',120,1,NULL,'fixed:r:sha256:0gv2whw8q0cj2mx49m2smny28zgjjhqqzjc7znh7jh2s5lg5dq42');
CREATE TABLE Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
INSERT INTO Refs VALUES(3,2);
INSERT INTO Refs VALUES(3,1);
INSERT INTO Refs VALUES(4,1);
CREATE TABLE DerivationOutputs (
    drv  integer not null,
    id   text not null,
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
INSERT INTO DerivationOutputs VALUES(3,'out','/nix/store/avh4qmms02gh4ic3g7xw5iz0bq26i0n9-x');
CREATE TABLE SchemaMigrations (migration text primary key not null);
INSERT INTO SchemaMigrations VALUES('20220326-ca-derivations');
CREATE TABLE Realisations (
    id integer primary key autoincrement not null,
    drvPath text not null,
    outputName text not null,
    outputPath integer not null,
    signatures text,
    foreign key (outputPath) references ValidPaths(id) on delete cascade
);
INSERT INTO Realisations VALUES(1,'sha256:75754806516537a623d06029310b7f020e7a34b38f371962d5119ce186631bc9','out',5,'');
CREATE TABLE RealisationsRefs (
    referrer integer not null,
    realisationReference integer,
    foreign key (referrer) references Realisations(id) on delete cascade,
    foreign key (realisationReference) references Realisations(id) on delete restrict
);
PRAGMA writable_schema=ON;
CREATE TABLE IF NOT EXISTS sqlite_sequence(name,seq);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('ValidPaths',5);
INSERT INTO sqlite_sequence VALUES('Realisations',1);
CREATE TRIGGER DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
CREATE TRIGGER DeleteSelfRefsViaRealisations before delete on ValidPaths
  begin
    delete from RealisationsRefs where realisationReference in (
      select id from Realisations where outputPath = old.id
    );
  end;
CREATE INDEX IndexReferrer on Refs(referrer);
CREATE INDEX IndexReference on Refs(reference);
CREATE INDEX IndexDerivationOutputs on DerivationOutputs(path);
CREATE INDEX IndexRealisations on Realisations(drvPath, outputName);
CREATE INDEX IndexRealisationsRefsRealisationReference on RealisationsRefs(realisationReference);
CREATE INDEX IndexRealisationsRefs on RealisationsRefs(referrer);
CREATE INDEX IndexRealisationsRefsOnOutputPath on Realisations(outputPath);
PRAGMA writable_schema=OFF;
COMMIT;
