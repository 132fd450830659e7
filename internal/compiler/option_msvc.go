package compiler

// msvcGrammar is what is known of the options of cl and clang-cl, besides
// those of clang's own that clang-cl takes in the GNU spelling: these are in
// gnuGrammar (roleCore). Most are understood by both; clang-cl only warns of
// those that it does not heed. What cl makes of each stands in Microsoft's
// "MSVC compiler options"; for clang-cl, tests ask clang-cl 14.
//
// A name of a slash and more stands for the spelling with a dash, too. Rows
// whose value is joined need no roleFamily: where a value can name a file,
// the row says so.
var msvcGrammar = newGrammar([]option{
	// What is made, from what.
	{names: "/c", form: alone, does: setCompile},
	// The file or the directory, which ends in a slash; without a suffix it
	// gets one.
	{names: "/Fo", form: alone | joined, roles: rolePath | roleOutput, does: setObjectFile},
	{names: "/Fo:", form: joined | separate, roles: rolePath | roleOutput, does: setObjectFile, only: CL},
	// To clang-cl before 17 the colon belongs to the file's name.
	{names: "/Fo:", form: alone | joined, does: refused, why: ReasonOutputName, only: ClangCL},
	{names: "/o", form: joined | separate, roles: rolePath | roleOutput, does: setOutput, only: ClangCL},
	{names: "/TC", form: alone, does: setAllC},
	{names: "/TP", form: alone, does: setAllCXX},
	{names: "/Tc", form: joined | separate, roles: rolePath, does: addSourceC},
	{names: "/Tp", form: joined | separate, roles: rolePath, does: addSourceCXX},
	{names: "/E /EP /P", form: alone, does: refused, why: ReasonPreprocessing},
	{names: "/Fi", form: joined, does: refused, why: ReasonPreprocessing}, // where /P writes to
	{names: "/scanDependencies", form: joined | separate, does: refused, why: ReasonPreprocessing},
	{names: "/? /help /HELP /Zs /Bt /Bt+", form: alone, does: refused, why: ReasonQuery},
	{names: "/link", form: alone | joined, does: refused, why: ReasonLinking},
	{names: "/LD /LDd /LN", form: alone}, // for the link; the first two also choose the run-time library
	{names: "/Fe /Fm", form: joined, roles: roleText},
	{names: "/F", form: separate, roles: roleText}, // the stack's size; joined, it may be any option of files
	{names: "/MP", form: alone | joined},           // several sources at once; of one, there is nothing to share

	// Dependencies and what is printed.
	{names: "/showIncludes", form: alone, does: setShowAll},
	{names: "/showIncludes:user", form: alone, does: setShowUser},
	{names: "/showFilenames /showFilenames- /nologo /FC", form: alone},
	{names: "/sourceDependencies /sourceDependencies:directives", form: joined | separate, does: refused, why: ReasonDependencyOption},
	{names: "/diagnostics: /errorReport /errorReport:", form: alone | joined},
	{names: "/Qvec-report /Qpar-report", form: joined},

	// Include search, forced includes, macros.
	{names: "/I", form: joined | separate, roles: rolePath, does: addAngleDir},
	{names: "/external:I", form: joined | separate, roles: rolePath, does: addSystemDir},
	{names: "/imsvc", form: joined | separate, roles: rolePath | roleProbe, only: ClangCL},
	{names: "/external:env:", form: joined, does: refused, why: ReasonIncludeOption}, // a variable of any name
	{names: "/X", form: alone, roles: roleProbe},
	{names: "/FI", form: joined | separate, roles: rolePath, does: addForced},
	// Where to look for the library's and the system's headers.
	{names: "/winsysroot /vctoolsdir /winsdkdir /diasdkdir", form: joined | separate, roles: rolePath | roleProbe, only: ClangCL},
	{names: "/vctoolsversion /winsdkversion", form: joined | separate, roles: roleProbe, only: ClangCL},
	{names: "/D", form: joined | separate, roles: roleVerbatim, does: addDefine},
	{names: "/U", form: joined | separate, roles: roleVerbatim},
	{names: "/u", form: alone},
	{names: "/AI /FU", form: joined | separate, does: refused, why: ReasonIncludeOption}, // for #using and #import
	{names: "/C", form: alone, does: refused, why: ReasonPreprocessing},                  // an error without /E

	// Precompiled headers and modules.
	{names: "/Yc /Yu /Yl /YX /Fp", form: alone | joined, does: refused, why: ReasonPrecompiled},
	{names: "/Y- /Yd", form: alone},
	{names: "/interface /internalPartition /exportHeader /translateInclude", form: alone, does: refused, why: ReasonModules},
	{names: "/reference /headerUnit /headerUnit:angle /headerUnit:quote /ifcOutput /ifcSearchDir /ifcMap /stdIfcDir", form: joined | separate,
		does: refused, why: ReasonModules},
	{names: "/headerName: /module: /experimental:module", form: alone | joined, does: refused, why: ReasonModules},

	// Debug information. cl collects it in a file that all of a project's
	// compiles write, by a server that keeps it open.
	{names: "/Z7", form: alone, does: setCodeView},
	{names: "/Zi", form: alone, does: setCodeView, only: ClangCL},
	{names: "/ZI", form: alone, only: ClangCL}, // not heeded
	{names: "/Zi /ZI", form: alone, does: refused, why: ReasonProgramDatabase, only: CL},
	{names: "/Fd", form: alone | joined, roles: rolePath}, // that file's name, for /Zi alone
	{names: "/FS", form: alone},
	{names: "/Zf /JMC /JMC- /Zd", form: alone, only: CL},
	{names: "/Zo /Zo-", form: alone},
	{names: "/ZH:", form: joined},
	{names: "/Gm", form: alone, does: refused, why: ReasonProgramDatabase, only: CL},
	{names: "/Gm", form: alone, only: ClangCL},
	{names: "/Gm-", form: alone},

	// Files beside the object.
	{names: "/FA", form: alone, does: setAsmListing, only: ClangCL},
	{names: "/Fa", form: joined, roles: rolePath, does: setAsmListing, only: ClangCL},
	{names: "/FA /Fa", form: alone | joined, does: refused, why: ReasonDumpFiles},
	{names: "/FR /Fr /Fx /doc", form: alone | joined, does: refused, why: ReasonDumpFiles},
	{names: "/analyze", form: alone | joined, does: refused, why: ReasonDumpFiles},
	{names: "/analyze-", form: alone},

	// The object itself.
	{names: "/Brepro", form: alone, does: setNoTimestamp},
	{names: "/Brepro-", form: alone, does: setTimestamp, only: ClangCL},
	{names: "/bigobj", form: alone},
	{names: "/GL", form: alone, does: refused, why: ReasonOutputKind, only: CL}, // for the linker to compile
	{names: "/GL", form: alone, only: ClangCL},                                  // not heeded
	{names: "/GL-", form: alone},
	{names: "/clr /ZW", form: alone | joined, does: refused, why: ReasonLanguage},

	// Language, code and warnings.
	{names: "/std:", form: joined, roles: roleProbe},
	{names: "/EH /RTC /arch: /fp: /guard: /favor: /vd /Zp /Zm /Zc: /constexpr: /await: /volatile: /tune: /Qspectre", form: alone | joined},
	{names: "/O", form: alone | joined},
	{names: "/MD /MDd /MT /MTd", form: alone},
	{names: "/J /GA /GF /GF- /GR /GR- /GS /GS- /Gy /Gy- /Gw /Gw- /Gd /Gr /Gz /Gv /Gregcall /GX /GX- /G1 /G2 /GT /GZ /Ge /Gh /GH /H " +
		"/hotpatch /homeparams /kernel /kernel- /permissive /permissive- /sdl /sdl- /await /utf-8 /validate-charset /validate-charset- " +
		"/openmp /openmp- /openmp:experimental /openmp:llvm /Qpar /Qpar- /Qvec /Qvec- /QIfist /Qfast_transcendentals " +
		"/Qimprecise_fwaits /Qsafe_fp_loads /QIntel-jcc-erratum /vmb /vmg /vmm /vms /vmv /Za /Ze /Zg /Zl", form: alone},
	{names: "/Gs", form: alone | joined},
	{names: "/source-charset: /execution-charset: /cgthreads", form: joined},
	{names: "/fsanitize=", form: joined},
	{names: "/external:W /external:anglebrackets /external:templates-", form: alone | joined},
	{names: "/W0 /W1 /W2 /W3 /W4 /Wall /WX /WX- /WL /Wp64 /V", form: alone},
	{names: "/w", form: alone | joined},
	{names: "/Wv:", form: joined, only: CL},

	// clang's.
	{names: "/clang:", form: joined, does: toDriver, only: ClangCL},
	{names: "/d1 /d2", form: joined, does: refused, why: ReasonUnknownOption}, // undocumented, some write files
	{names: "--rsp-quoting=", form: joined, does: refused, why: ReasonResponseFile, only: ClangCL},
})
