# As much of a module system as nix/module.nix uses, so that it can be evaluated by a bare Nix: options
# with types, conditions, merging and priorities. What no option declares is an error, as in nixpkgs.
let
  inherit (builtins)
    all
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    head
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    map
    tail
    ;

  only =
    what: path: values:
    if all (value: value == head values) values then
      head values
    else
      throw "${path}: ${what} is set to different values";

  simple = name: check: {
    inherit name check;
    merge = only name;
  };

  unique = values: foldl' (seen: value: if elem value seen then seen else seen ++ [ value ]) [ ] values;
  names = values: unique (concatMap attrNames values);
  # Those of which something is left when conditions are decided.
  namesLeft =
    values: filter (name: concatMap decided (under name values) != [ ]) (names (concatMap decided values));
  under = name: values: concatMap (value: if value ? ${name} then [ value.${name} ] else [ ]) values;
  mapNames = names: of: listToAttrs (map (name: { inherit name; value = of name; }) names);

  isKind = kind: value: isAttrs value && value._type or null == kind;

  # What a value comes to when its conditions are decided.
  decided =
    value:
    if isKind "if" value then
      (if value.condition then decided value.content else [ ])
    else if isKind "merge" value then
      concatMap decided value.contents
    else
      [ value ];

  # The same for a tree, whose names must not depend on what they are decided by: conditions go down
  # into it.
  pushedDown =
    value:
    if isKind "if" value then
      map (builtins.mapAttrs (_: lib.mkIf value.condition)) (pushedDown value.content)
    else if isKind "merge" value then
      concatMap pushedDown value.contents
    else
      [ value ];

  # The strongest of the definitions.
  strongest =
    values:
    let
      priority = value: if isKind "override" value then value.priority else 100;
      least = foldl' (one: value: if priority value < one then priority value else one) 9999 values;
      kept = filter (value: priority value == least) values;
    in
    concatMap (value: if isKind "override" value then decided value.content else [ value ]) kept;

  mergeAs =
    type: path: values:
    let
      strong = strongest (concatMap decided values);
      wrong = filter (value: !type.check value) strong;
    in
    if wrong == [ ] then
      type.merge path strong
    else
      throw "${path}: a value is not of type ${type.name}";

  types = rec {
    bool = simple "bool" isBool;
    str = simple "str" isString;
    int = simple "int" isInt;
    port = simple "port" (value: isInt value && 0 <= value && value <= 65535);
    ints.positive = simple "positive number" (value: isInt value && 0 < value);
    package = simple "package" (value: isAttrs value || isString value);
    lines = {
      name = "lines";
      check = isString;
      merge = _: concatStringsSep "\n";
    };
    enum = allowed: simple "one of several" (value: elem value allowed);
    nullOr = inner: {
      name = "null or ${inner.name}";
      check = value: value == null || inner.check value;
      merge =
        path: values: if all (value: value == null) values then null else mergeAs inner path values;
    };
    listOf = inner: {
      name = "list of ${inner.name}";
      check = isList;
      merge = path: values: map (value: mergeAs inner path [ value ]) (concatLists values);
    };
    either = one: other: {
      name = "${one.name} or ${other.name}";
      check = value: one.check value || other.check value;
      merge = path: values: (if all one.check values then one else other).merge path values;
    };
    attrsOf = inner: {
      name = "attributes of ${inner.name}";
      check = isAttrs;
      merge =
        path: values: mapNames (namesLeft values) (name: mergeAs inner "${path}.${name}" (under name values));
    };
    # Attributes are merged, lists are joined, anything else must agree.
    anything = {
      name = "anything";
      check = _: true;
      merge =
        path: values:
        if all isAttrs values then
          mapNames (namesLeft values) (name: mergeAs anything "${path}.${name}" (under name values))
        else if all isList values then
          concatLists values
        else
          only "this" path values;
    };
    submodule = module: {
      name = "submodule";
      check = isAttrs;
      merge = path: values: configOf path module.options values;
    };
  };

  isOption = isKind "option";

  # The configuration that definitions come to under a tree of options.
  configOf =
    path: options: values:
    let
      given = concatMap pushedDown values;
      unknown = filter (name: !(options ? ${name})) (names given);
      below = name: if path == "" then name else "${path}.${name}";
      one =
        name:
        let
          option = options.${name};
          definitions = concatMap decided (under name given);
        in
        if !(isOption option) then
          configOf (below name) option (under name given)
        else if definitions != [ ] then
          mergeAs option.type (below name) definitions
        else if option ? default then
          mergeAs option.type (below name) [ option.default ]
        else
          throw "${below name} has no value";
    in
    mapNames (attrNames options) one
    // mapNames unknown (name: throw "there is no option ${below name}");

  merged =
    trees:
    mapNames (names trees) (
      name:
      let
        found = under name trees;
      in
      if length found == 1 || isOption (head found) then elemAt found 0 else merged found
    );

  lib = {
    inherit types;
    inherit (builtins) concatStringsSep;
    mkOption = option: option // { _type = "option"; };
    mkEnableOption =
      what:
      lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkMerge = contents: {
      _type = "merge";
      inherit contents;
    };
    mkDefault = content: {
      _type = "override";
      priority = 1000;
      inherit content;
    };
    mkForce = content: {
      _type = "override";
      priority = 50;
      inherit content;
    };
    optionals = condition: list: if condition then list else [ ];
    literalExpression = text: { inherit text; };

    evalModules =
      { modules, specialArgs }:
      let
        called = map (
          module:
          let
            loaded = if builtins.isPath module then import module else module;
          in
          if builtins.isFunction loaded then loaded ({ inherit config lib; } // specialArgs) else loaded
        ) modules;
        normal = map (
          module: if module ? options || module ? config then module else { config = module; }
        ) called;
        options = merged (map (module: module.options or { }) normal);
        config = configOf "" options (map (module: module.config or { }) normal);
      in
      {
        inherit config;
      };
  };
in
lib
