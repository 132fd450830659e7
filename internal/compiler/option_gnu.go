package compiler

// gnuGrammar is what is known of the options of gcc and clang. It is read by
// the parser, by KeyArgs, RunArgs and PreprocessArgs and by the path mapper:
// there is no second list of options. What has no row is not cached.
//
// Options that make or read files beside the source, its includes and the
// object each need a row: one that says which file, or a refusal.
var gnuGrammar = newGrammar([]option{
	// What is made, from what.
	{names: "-c --compile", form: alone, does: setCompile},
	{names: "-S --assemble", form: alone, does: setAssemble},
	{names: "-o", form: joined | separate, roles: rolePath | roleOutput, does: setOutput},
	{names: "--output", form: separate, roles: rolePath | roleOutput, does: setOutput},
	{names: "--output=", form: joined, roles: rolePath | roleOutput, does: setOutput},
	{names: "-x", form: joined | separate, does: setLanguage},
	{names: "--language=", form: joined, does: setLanguage},
	{names: "-E --preprocess", form: alone, does: refused, why: ReasonPreprocessing},
	{names: "-M --dependencies", form: alone, does: setListAll},
	{names: "-MM --user-dependencies", form: alone, does: setListUser},
	{names: "-fsyntax-only -fdriver-only -v -### -V -help -version -dumpversion -dumpfullversion -dumpmachine -dumpspecs", form: alone,
		does: refused, why: ReasonQuery},
	{names: "--version --help --target-help --verbose --help-hidden --autocomplete= --completion= --analyze", form: alone | joined,
		does: refused, why: ReasonQuery},
	{names: "--help= -fhelp= -print- --print-", form: joined, does: refused, why: ReasonQuery},
	{names: "-emit-llvm -emit-ast -emit-interface-stubs -rewrite-objc -rewrite-legacy-objc -verify-pch -extract-api --precompile",
		form: alone, does: refused, why: ReasonOutputKind, only: Clang},
	{names: "-arch", form: separate, roles: roleProbe, does: setArch},

	// Dependency files.
	{names: "-MD --write-dependencies", form: alone, roles: roleDep | rolePreprocessor | rolePreprocessorValue, does: setDepAll},
	{names: "-MMD --write-user-dependencies", form: alone, roles: roleDep | rolePreprocessor | rolePreprocessorValue, does: setDepUser},
	{names: "-MF", form: joined | separate, roles: roleDep | rolePreprocessor | rolePath, does: setDepFile},
	{names: "-MT", form: joined | separate, roles: roleDep | rolePreprocessor, does: addDepTarget},
	{names: "-MQ", form: joined | separate, roles: roleDep | rolePreprocessor, does: addDepTargetQuoted},
	{names: "-MP", form: alone, roles: roleDep | rolePreprocessor, does: setDepPhony},
	{names: "-MG -MV", form: alone, does: refused, why: ReasonDependencyOption},
	{names: "-MJ -dependency-file -dependency-dot -gen-cdb-fragment-path", form: joined | separate, does: refused,
		why: ReasonDependencyOption, only: Clang},

	// Include search and forced includes.
	{names: "-I", form: joined | separate, roles: rolePath | rolePreprocessor, does: addAngleDir},
	{names: "-I-", form: alone, does: refused, why: ReasonIncludeOption},
	{names: "--include-directory", form: separate, roles: rolePath, does: addAngleDir},
	{names: "--include-directory=", form: joined, roles: rolePath, does: addAngleDir},
	{names: "-iquote", form: joined | separate, roles: rolePath | rolePreprocessor, does: addQuoteDir},
	{names: "-isystem", form: joined | separate, roles: rolePath | rolePreprocessor, does: addSystemDir},
	{names: "-idirafter", form: joined | separate, roles: rolePath | rolePreprocessor, does: addAfterDir},
	{names: "--include-directory-after", form: separate, roles: rolePath, does: addAfterDir},
	{names: "--include-directory-after=", form: joined, roles: rolePath, does: addAfterDir},
	{names: "-include", form: joined | separate, roles: rolePath | rolePreprocessor, does: addForced},
	{names: "--include", form: separate, roles: rolePath, does: addForced},
	{names: "--include=", form: joined, roles: rolePath, does: addForced},
	{names: "-imacros", form: joined | separate, roles: rolePath | rolePreprocessor, does: addMacros},
	{names: "--imacros", form: separate, roles: rolePath, does: addMacros},
	{names: "--imacros=", form: joined, roles: rolePath, does: addMacros},
	{names: "-isysroot", form: joined | separate, roles: rolePath | rolePreprocessor | roleProbe, does: addSysroot},
	{names: "--sysroot", form: separate, roles: rolePath | roleProbe, does: addSysroot},
	{names: "--sysroot=", form: joined, roles: rolePath | roleProbe, does: addSysroot},
	{names: "-B", form: joined | separate, roles: rolePath | roleProbe, does: addPrefix},
	{names: "--prefix=", form: joined, roles: rolePath | roleProbe, does: addPrefix},
	{names: "-nostdinc -nostdinc++ --no-standard-includes -nostdlibinc -nobuiltininc -nogpuinc", form: alone,
		roles: roleCore | rolePreprocessor | roleProbe},
	{names: "-iprefix -iwithprefix -iwithprefixbefore -iframework -iframeworkwithsysroot -iwithsysroot -ivfsoverlay " +
		"-cxx-isystem -isystem-after -stdlib++-isystem -F -working-directory", form: joined | separate,
		does: refused, why: ReasonIncludeOption},
	{names: "--include-prefix= --include-with-prefix= --include-with-prefix-before= --include-with-prefix-after= " +
		"-working-directory= --embed-dir=", form: joined, does: refused, why: ReasonIncludeOption},
	{names: "-remap", form: alone, does: refused, why: ReasonIncludeOption}, // looks header.gcc files up
	{names: "-imultilib", form: joined | separate, roles: roleProbe},

	// Macros and the preprocessor.
	{names: "-D", form: joined | separate, roles: roleVerbatim | rolePreprocessor, does: addDefine},
	{names: "-U", form: joined | separate, roles: roleVerbatim | rolePreprocessor},
	{names: "--define-macro", form: separate, roles: roleVerbatim, does: addDefine},
	{names: "--define-macro=", form: joined, roles: roleVerbatim, does: addDefine},
	{names: "--undefine-macro", form: separate, roles: roleVerbatim},
	{names: "--undefine-macro=", form: joined, roles: roleVerbatim},
	{names: "-A", form: joined | separate, roles: roleVerbatim | rolePreprocessor},
	{names: "-H", form: alone, roles: rolePreprocessor, does: setShowIncludes},
	{names: "-undef -trigraphs --trigraphs", form: alone, roles: rolePreprocessor},
	{names: "-C -CC -P -dD -dI -dM -dN -dU", form: alone, roles: rolePreprocessor, does: setTextOption},
	{names: "-finput-charset=", form: joined, roles: roleCore, does: setTextOption},
	{names: "-fdirectives-only -frewrite-includes", form: alone, does: setTextOption},
	{names: "-Wp,", form: joined, does: toPreprocessor},
	{names: "-Xpreprocessor", form: separate, does: toPreprocessor},
	{names: "-no-integrated-cpp", form: alone, does: refused, why: ReasonWrapper},

	// Language and target.
	{names: "-ansi --ansi", form: alone, roles: roleProbe},
	{names: "-std= --std=", form: joined, roles: roleCore | roleProbe},
	{names: "--std", form: separate, roles: roleProbe},
	{names: "-traditional-cpp", form: alone, does: setTextOption},
	{names: "-target", form: separate, roles: roleProbe, does: setTarget},
	{names: "--target=", form: joined, roles: roleCore | roleProbe, does: setTarget},
	{names: "--gcc-toolchain=", form: joined, roles: rolePath | roleProbe},
	{names: "-stdlib= -rtlib= -unwindlib= --rtlib= --unwindlib= --stdlib=", form: joined, roles: roleProbe},
	{names: "-resource-dir", form: separate, roles: roleCore | rolePath | roleProbe},
	{names: "-resource-dir=", form: joined, roles: roleCore | rolePath | roleProbe},
	{names: "--driver-mode=", form: joined, does: refused, why: ReasonUnknownOption, only: Clang},
	{names: "-pthread -pthreads", form: alone, roles: roleProbe},
	{names: "-m", form: joined, roles: roleCore | roleFamily | roleProbe, does: setMachine},
	// Some -m options are errors without these.
	{names: "-fpic -fPIC -fpie -fPIE -fno-pic -fno-PIC -fno-pie -fno-PIE -fcf-protection", form: alone, roles: roleProbe},
	{names: "-fcf-protection=", form: joined, roles: roleProbe},
	{names: "-mllvm", form: separate, roles: roleCore | roleFamily, only: Clang},
	{names: "-EL -EB", form: alone, roles: roleProbe},
	{names: "-mthread-model -meabi", form: separate, roles: roleProbe, only: Clang},
	{names: "-Xarch_ -Xopenmp-target --offload --cuda -mlink-builtin-bitcode", form: joined | separate,
		does: refused, why: ReasonMultipleArchs, only: Clang},
	{names: "-fopenmp-targets= -foffload= -foffload-options=", form: joined, does: refused, why: ReasonMultipleArchs},
	{names: "-foffload-abi= -foffload=disable", form: alone | joined},

	// Optimisation, warnings, diagnostics.
	{names: "-O", form: alone | joined, roles: roleCore | roleFamily},
	{names: "-Ofast", form: alone, roles: roleCore},
	{names: "--optimize", form: alone},
	{names: "--optimize=", form: joined, roles: roleFamily},
	{names: "-W", form: alone | joined, roles: roleCore | roleFamily},
	{names: "-Wall", form: alone, roles: roleCore | roleFamily | rolePreprocessor, does: setAllWarnings},
	{names: "-Wmisleading-indentation -Werror=misleading-indentation", form: alone, roles: roleCore | roleFamily | rolePreprocessor,
		does: setIndentation},
	{names: "-Wno-misleading-indentation", form: alone, roles: roleCore | roleFamily | rolePreprocessor, does: setNoIndentation},
	{names: "--all-warnings", form: alone, does: setAllWarnings},
	{names: "--no-warnings -w", form: alone, does: setNoWarnings},
	{names: "--extra-warnings -pedantic --pedantic -pedantic-errors --pedantic-errors", form: alone},
	{names: "-R", form: joined, roles: roleCore | roleFamily, only: Clang},
	// Linux gives it to every unit, for clang 15 and older.
	{names: "-enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang", form: alone, only: Clang},
	{names: "-Qunused-arguments -Qn -Qy", form: alone, roles: roleCore},
	{names: "--param", form: separate},
	{names: "--param=", form: joined},
	{names: "-f", form: joined, roles: roleCore | roleFamily},
	{names: "-fms-compatibility", form: alone, roles: roleCore, does: setStackSearch, only: Clang},
	{names: "-fdiagnostics-color=", form: joined, roles: roleCore, does: setColour},
	{names: "-fdiagnostics-color -fno-diagnostics-color -fcolor-diagnostics -fno-color-diagnostics", form: alone,
		roles: roleCore | roleFamily, does: setColour},
	{names: "-fdiagnostics-urls= -fdiagnostics-format=", form: joined, roles: roleCore},
	{names: "-fdiagnostics-format=sarif-file -fdiagnostics-format=json-file", form: alone, does: refused, why: ReasonDumpFiles},
	{names: "-fdiagnostics-add-output= -fdiagnostics-set-output=", form: joined, does: refused, why: ReasonDumpFiles},
	{names: "-fcrash-diagnostics-dir=", form: joined, roles: roleCore | rolePath},
	{names: "--serialize-diagnostics -serialize-diagnostics", form: separate, roles: rolePath, does: addAuxOutput,
		why: "diagnostics", only: Clang},
	{names: "-Q -time -fmem-report -fmem-report-wpa -fpre-ipa-mem-report -fpost-ipa-mem-report -ftime-report -ftime-report-details " +
		"-fstats -fprofile-report -fproc-stat-report", form: alone, does: refused, why: ReasonUnrepeatable},
	{names: "-time= -ftime-report= -fproc-stat-report=", form: joined, does: refused, why: ReasonUnrepeatable},
	{names: "-save-stats", form: alone, does: refused, why: ReasonDumpFiles},
	{names: "-save-stats=", form: joined, does: refused, why: ReasonDumpFiles},

	// Debug information.
	{names: "-g", form: alone | joined, roles: roleCore | roleFamily, does: setDebug},
	{names: "--debug", form: alone, does: setDebug},
	{names: "-gcodeview", form: alone, roles: roleCore, does: setCodeView, only: Clang},
	{names: "-gz -gno- -gstrict-dwarf -gcolumn-info -grecord-gcc-switches -gas-loc-support -gas-locview-support -gpubnames " +
		"-gdwarf32 -gdwarf64 -ginline-points -gstatement-frontiers -gvariable-location-views -gembed-source -gsimple-template-names",
		form: alone | joined, roles: roleCore | roleFamily},
	{names: "-gsplit-dwarf", form: alone, roles: roleHoldsOutput, does: setSplitDwarf},
	{names: "-gsplit-dwarf=split", form: alone, roles: roleHoldsOutput, does: setSplitDwarf, only: Clang},
	{names: "-gsplit-dwarf=single", form: alone, roles: roleHoldsOutput, does: setNoSplitDwarf, only: Clang},
	{names: "-gno-split-dwarf", form: alone, does: setNoSplitDwarf},
	{names: "-fdebug-macro", form: alone, does: setMacroDebug},
	{names: "-ffile-prefix-map= -fdebug-prefix-map= -fmacro-prefix-map= -fprofile-prefix-map= -fcoverage-prefix-map=",
		form: joined, roles: roleCore | rolePathMap},
	{names: "-fdebug-compilation-dir= -fcoverage-compilation-dir= -ffile-compilation-dir=", form: joined, roles: roleCore | roleVerbatim},
	{names: "-fdebug-compilation-dir", form: separate, roles: roleCore | roleVerbatim, only: Clang},
	{names: "-grecord-gcc-switches -grecord-command-line -frecord-gcc-switches -frecord-command-line -fembed-bitcode",
		form: alone, does: refused, why: ReasonRecordedCommand, only: Clang},
	{names: "-fembed-bitcode=", form: joined, does: refused, why: ReasonRecordedCommand, only: Clang},
	{names: "-frandom-seed=", form: joined, roles: roleCore | roleVerbatim, does: setRandomSeed},

	// Coverage and profiles. gcc's object holds the path of its .gcda, which
	// follows from the working directory and the output's name.
	{names: "--coverage -coverage", form: alone, roles: roleCore | roleHoldsCwd | roleHoldsOutput, does: setCoverage},
	{names: "-fprofile-arcs -fprofile-generate -fprofile-instr-generate -fcs-profile-generate", form: alone,
		roles: roleCore | roleHoldsCwd | roleHoldsOutput, does: setProfileArcs},
	{names: "-ftest-coverage", form: alone, roles: roleHoldsCwd | roleHoldsOutput, does: setTestCoverage},
	{names: "-fno-test-coverage", form: alone, does: setNoTestCoverage},
	{names: "-fprofile-generate= -fprofile-instr-generate= -fcs-profile-generate= -fprofile-dir=", form: joined,
		roles: roleCore | roleVerbatim | roleHoldsCwd | roleHoldsOutput, does: setProfileArcs},
	{names: "-fcoverage-mapping -fprofile-abs-path", form: alone, roles: roleCore | roleHoldsCwd},
	{names: "-fprofile-prefix-path=", form: joined, roles: roleVerbatim | roleHoldsCwd},
	{names: "-fprofile-filter-files= -fprofile-exclude-files= -finstrument-functions-exclude-file-list= " +
		"-finstrument-functions-exclude-function-list=", form: joined, roles: roleVerbatim}, // patterns, not files
	// gcc reads FILE or FILE/NAME.gcda, with a NAME that it makes of the
	// output's; clang's are files (a directory cannot be read, so it is not
	// cached either).
	{names: "-fprofile-use -fbranch-probabilities -fauto-profile -fprofile-instr-use -fprofile-sample-use", form: alone,
		does: refused, why: ReasonProfileUse},
	{names: "-fprofile-use= -fauto-profile=", form: joined, does: refused, why: ReasonProfileUse, only: GCC},
	{names: "-fprofile-use= -fauto-profile= -fprofile-instr-use= -fprofile-sample-use= -fprofile-list= -fprofile-remapping-file= " +
		"-fsanitize-ignorelist= -fsanitize-blacklist= -fsanitize-system-ignorelist= -fsanitize-system-blacklist= " +
		"-fsanitize-coverage-allowlist= -fsanitize-coverage-whitelist= -fsanitize-coverage-ignorelist= " +
		"-fsanitize-coverage-blacklist= -fsanitize-coverage-blocklist= -fxray-always-instrument= -fxray-never-instrument= " +
		"-fxray-attr-list= -fthinlto-index= -fbasic-block-sections=list=", form: joined, roles: roleCore | rolePath, does: addReadFile,
		only: Clang},
	{names: "-fprofile-note= -fmemory-profile=", form: joined, does: refused, why: ReasonDumpFiles},

	// Link-time optimisation.
	{names: "-flto", form: alone, roles: roleCore | roleHoldsCwd, does: setLTO},
	{names: "-flto=", form: joined, roles: roleCore | roleHoldsCwd, does: setLTO},
	{names: "-fno-lto", form: alone, roles: roleCore, does: setNoLTO},
	{names: "-fthin-link-bitcode=", form: joined, does: refused, why: ReasonDumpFiles},
	{names: "-fwpa -fltrans", form: alone | joined, does: refused, why: ReasonOutputKind},
	{names: "-fltrans-output-list= -fresolution=", form: joined, does: refused, why: ReasonOutputKind},

	// Files beside the object.
	{names: "-fstack-usage", form: alone, does: setStackUsage},
	{names: "-fcallgraph-info", form: alone, does: setCallGraph, only: GCC},
	{names: "-fcallgraph-info=", form: joined, does: setCallGraph, only: GCC},
	{names: "-aux-info", form: separate, roles: rolePath, does: addAuxOutput, why: "aux-info", only: GCC},
	{names: "-aux-info=", form: joined, roles: rolePath, does: addAuxOutput, why: "aux-info", only: GCC},
	{names: "-save-temps --save-temps", form: alone, does: refused, why: ReasonSaveTemps},
	{names: "-save-temps= --save-temps=", form: joined, does: refused, why: ReasonSaveTemps},
	{names: "-dumpdir -dumpbase -dumpbase-ext --dumpdir --dumpbase --dumpbase-ext -auxbase -auxbase-strip", form: separate,
		does: refused, why: ReasonOutputName},
	{names: "-dA -dp -dP", form: alone}, // more comments in the assembly
	{names: "-d --dump=", form: joined, does: refused, why: ReasonDumpFiles},
	{names: "--dump", form: separate, does: refused, why: ReasonDumpFiles},
	{names: "-fdump- -fcompare-debug -fsave-optimization-record -foptimization-record- -ftime-trace -fopt-info- " +
		"-fdbg-cnt-list -fenable-kind-pass", form: alone | joined, does: refused, why: ReasonDumpFiles},
	{names: "-fdump-go-spec=", form: joined, does: refused, why: ReasonDumpFiles},
	{names: "-gen-decls", form: alone, does: refused, why: ReasonDumpFiles},

	// Precompiled headers and modules.
	{names: "-include-pch -emit-pch", form: alone | separate, does: refused, why: ReasonPrecompiled},
	{names: "--output-pch=", form: joined, does: refused, why: ReasonPrecompiled},
	{names: "-fpch-preprocess -fpch-deps -fpch-instantiate-templates -fpch-codegen -fpch-debuginfo -fpreprocessed", form: alone,
		does: refused, why: ReasonPrecompiled},
	{names: "-fmodule -fdeps-", form: alone | joined, does: refused, why: ReasonModules},
	{names: "-fcxx-modules -fimplicit-module-maps -fimplicit-modules -fbuild-session-timestamp= -fbuild-session-file= " +
		"-fprebuilt-module-path= -fprebuilt-implicit-modules -fsystem-module", form: alone | joined, does: refused, why: ReasonModules},

	// Other programs' files and other programs.
	{names: "-fplugin= -fplugin-arg- -fpass-plugin= -iplugindir=", form: joined, does: refused, why: ReasonPlugin},
	{names: "-fplugin", form: alone, does: refused, why: ReasonPlugin},
	{names: "-specs= --specs= --config= --config-system-dir= --config-user-dir=", form: joined, does: refused, why: ReasonSpecs},
	{names: "-specs --specs --config", form: separate, does: refused, why: ReasonSpecs},
	{names: "-wrapper", form: separate, does: refused, why: ReasonWrapper},
	{names: "-fuse-ld= --ld-path= -fuse-cuid=", form: joined, roles: roleCore | roleText},
	{names: "-Wa,", form: joined, does: toAssembler},
	{names: "-Xassembler", form: separate, does: toAssembler},
	{names: "-Xclang", form: separate, roles: roleCore, does: toFrontEnd, only: Clang},

	// For the linker: without effect on a compile, except that clang warns of
	// them.
	{names: "-Wl,", form: joined, roles: roleText},
	{names: "-Xlinker -z -u -T -e --entry -undefined -framework", form: separate, roles: roleText},
	{names: "-l -L -Ttext -Tdata -Tbss", form: joined | separate, roles: roleText},
	{names: "--entry= --library-directory= -T", form: joined, roles: roleText},
	{names: "-s -static -shared -rdynamic -pie -no-pie -nopie -static-pie -symbolic -r -nostdlib -nostdlib++ -nodefaultlibs " +
		"-nostartfiles -nolibc -static-libgcc -shared-libgcc -static-libstdc++ -static-libasan -static-libtsan -static-liblsan " +
		"-static-libubsan -shared-libasan -static-libsan -shared-libsan -dynamiclib -bundle -dynamic", form: alone},

	// The driver itself.
	{names: "-pipe --pipe -p -pg --profile -pass-exit-codes -no-canonical-prefixes -canonical-prefixes -integrated-as " +
		"-no-integrated-as -fintegrated-as -fno-integrated-as -fintegrated-cc1 -fno-integrated-cc1", form: alone},
	{names: "-faccess-control -flarge-source-files", form: alone},
	{names: "--start-no-unused-arguments --end-no-unused-arguments", form: alone, only: Clang},
})

// frontEndGrammar is what may follow -Xclang besides what gnuGrammar knows as
// options for the front end.
var frontEndGrammar = newGrammar([]option{
	{names: "-triple", form: separate, does: setTarget},
	{names: "-target-feature -target-cpu -target-abi -tune-cpu -mrelocation-model -pic-level -mcode-model -mllvm",
		form: separate, roles: roleFamily},
	{names: "-disable-llvm-passes -disable-llvm-verifier -disable-O0-optnone -disable-lifetime-markers -no-opaque-pointers " +
		"-opaque-pointers -pic-is-pie -mrelax-all", form: alone},
	{names: "-debug-info-kind= -dwarf-version= -debugger-tuning=", form: joined, roles: roleHoldsCwd},
})

// assemblerGrammar is what may follow -Wa, and -Xassembler: gas's options, as
// far as they name files or take separate values.
var assemblerGrammar = newGrammar([]option{
	{names: "-I", form: joined | separate, roles: rolePath, does: addAsmDir},
	{names: "--defsym", form: separate, roles: roleVerbatim},
	{names: "--defsym=", form: joined, roles: roleVerbatim},
	{names: "--debug-prefix-map", form: separate, roles: rolePathMap},
	{names: "--debug-prefix-map=", form: joined, roles: rolePathMap},
	{names: "-a", form: alone | joined, does: addListing},
	{names: "-g --g", form: alone | joined, roles: roleFamily | roleHoldsCwd},
	{names: "-o --M -MD --version --help --statistics --target-help --dump-config", form: alone | joined, does: refused,
		why: ReasonAssemblerOption},
	{names: "-", form: joined, roles: roleFamily},
})
