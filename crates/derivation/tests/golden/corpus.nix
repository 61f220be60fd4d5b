# Derivations of every kind, from which make.sh makes the goldens of this directory.
#
# `recent`: whether Nix is recent enough for what came after 2.8.
{ recent }:

let
  make =
    attributes:
    derivation (
      {
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" "echo hello > $out" ];
      }
      // attributes
    );

  floating =
    attributes:
    make (
      {
        __contentAddressed = true;
        outputHashMode = "recursive";
        outputHashAlgo = "sha256";
      }
      // attributes
    );

  sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
  text = builtins.toFile "input.txt" "an input source\n";
  long = builtins.concatStringsSep "\n" (builtins.genList (n: "line ${toString n}: \"\\\t$") 700);
in
rec {
  plain = make { name = "plain"; };
  noArgs = derivation {
    name = "no-args";
    system = "i686-linux";
    builder = "/bin/sh";
  };
  outputs = make {
    name = "outputs";
    outputs = [ "out" "dev" "man" ];
  };
  noOut = make {
    name = "no-out";
    outputs = [ "lib" "bin" ];
  };
  selfNamed = make {
    name = "lib";
    outputs = [ "lib" "out" ];
  };
  dependent = make {
    name = "dependent";
    inherit plain;
    dev = outputs.dev;
    man = outputs.man;
    lib = noOut.lib;
    source = text;
  };
  deep = make {
    name = "deep";
    inherit dependent noArgs selfNamed;
  };
  drvInput = make {
    name = "drv-input";
    drv = dependent.drvPath;
  };
  sourceOnly = make {
    name = "source-only";
    builder = text;
    args = [ text ];
  };

  flatSha256 = make {
    name = "flat-sha256";
    outputHash = "sha256-${sha256}";
  };
  flatSha1 = make {
    name = "flat-sha1";
    outputHashAlgo = "sha1";
    outputHashMode = "flat";
    outputHash = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
  };
  flatMd5 = make {
    name = "flat-md5";
    outputHashAlgo = "md5";
    outputHash = "d41d8cd98f00b204e9800998ecf8427e";
  };
  flatSha512 = make {
    name = "flat-sha512";
    outputHashAlgo = "sha512";
    outputHash = "0kfi8h3yw0hxcbp0xvwn7c89ymxfvwzslxn83z0m6klm9lah69zcwwls6vslnh7pphkdc5bd8mw67d9qigqfnasjqih5cnicsh4kb3p";
  };
  recursiveSha256 = make {
    name = "recursive-sha256";
    outputHashAlgo = "sha256";
    outputHashMode = "recursive";
    outputHash = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
  };
  recursiveSha1 = make {
    name = "recursive-sha1";
    outputHashAlgo = "sha1";
    outputHashMode = "recursive";
    outputHash = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
  };
  # The same contents by another way: those that depend on either have the same outputs.
  mirror = make {
    name = "flat-sha256";
    mirror = "https://mirror.example.org/";
    inherit plain;
    outputHash = "sha256-${sha256}";
  };
  onFixed = make {
    name = "on-fixed";
    inherit flatSha256 recursiveSha1;
  };
  onMirror = make {
    name = "on-fixed";
    flatSha256 = mirror;
    inherit recursiveSha1;
  };
  onBoth = make {
    name = "on-both";
    inherit flatSha256 mirror;
  };
  fetchurl = import <nix/fetchurl.nix> {
    url = "https://example.org/file.tar.gz";
    hash = "sha256-${sha256}";
  };

  floatingNar = floating { name = "floating-nar"; };
  floatingFlat = floating {
    name = "floating-flat";
    outputHashMode = "flat";
    outputHashAlgo = "sha512";
  };
  floatingOutputs = floating {
    name = "floating-outputs";
    outputs = [ "out" "dev" ];
    self = placeholder "dev";
  };
  floatingOnFloating = floating {
    name = "floating-on-floating";
    inherit floatingNar plain flatMd5;
    args = [ "-c" "cat ${floatingOutputs.dev}/x ${floatingOutputs}/y > $out" ];
    builder = "${floatingNar}/bin/sh";
  };
  deferred = make {
    name = "deferred";
    outputs = [ "out" "doc" ];
    inherit floatingNar;
    library = floatingOutputs.dev;
  };
  onDeferred = make {
    name = "on-deferred";
    inherit plain;
    doc = deferred.doc;
  };
  fixedOnFloating = make {
    name = "fixed-on-floating";
    inherit floatingNar;
    outputHash = "sha256-${sha256}";
  };
  impure = make {
    name = "impure";
    __impure = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
  onImpure = make {
    name = "on-impure";
    __impure = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    inherit impure;
  };

  structured = make {
    name = "structured";
    __structuredAttrs = true;
    outputs = [ "out" "dev" ];
    # Nix 2.8 prints fewer digits, hence two derivations of this name.
    numbers = [ 0 1 (-1) 9223372036854775807 1.5 1.0 100.0 1.0e15 123456789012345.0 1.0e30 0.0001 0.00001 2.5e-12 3.141592653589793 ];
    nothing = null;
    yes = true;
    no = false;
    empty = { };
    none = [ ];
    nested = {
      z = [ { b = plain; a = [ [ ] ]; } ];
      "a key" = "a \"value\"\n\t\\ é€𝄞";
    };
    features = [ "not" "these" ];
    requiredSystemFeatures = [ "kvm" "big-parallel" ];
    preferLocalBuild = true;
    allowSubstitutes = false;
    exportReferencesGraph.graph = [ plain ];
  };
  structuredFloating = floating {
    name = "structured-floating";
    __structuredAttrs = true;
    inherit floatingNar;
    requiredSystemFeatures = [ "nixos-test" ];
  };
  features = make {
    name = "features";
    requiredSystemFeatures = [ "kvm" "nixos-test" "benchmark" ];
    preferLocalBuild = true;
    allowSubstitutes = false;
    passAsFile = [ "long" "other" ];
    inherit long;
    other = "x";
  };
  escapes = make {
    name = "escapes+1.0_a?b=c";
    args = [ "\"" "\\" "\n" "\r" "\t" "" "\\n" "\${x}" "a\"b\\c\nd\re\tf" ];
    control = builtins.fromJSON ''"\u0001\u0008\u000b\u000c\u001f\u007f\u0085\u2028"'';
    "weird \"name\"\n" = "'single' & <tags> / slash";
    unicode = "Grüße, 世界 🐑";
    empty = "";
  };
  bytes = make {
    name = "bytes";
    all = builtins.readFile ./bytes.bin;
  };
  longName = make {
    name = builtins.concatStringsSep "" (builtins.genList (_: "n") 200);
  };
}
// (
  if !recent then
    { }
  else
    rec {
      git = floating {
        name = "git";
        outputHashMode = "git";
        outputHashAlgo = "sha1";
      };
      textual = floating {
        name = "textual.drv";
        outputHashMode = "text";
      };
      dynamic = make {
        name = "dynamic";
        input = builtins.outputOf textual.outPath "out";
      };
    }
)
