# The instruction sets of each architecture, lowest first: name | compiler flags.
# csrc/cpu/*.cpp is compiled once per row; csrc/core/dispatch.cpp picks a row at run time (has_<name> there).
set(INNERLOOP_ISA_TABLE_x86_64
    "v2|-march=x86-64-v2"
    "v3|-march=x86-64-v3"
    "v4|-march=x86-64-v4 -mprefer-vector-width=512"
    "v4_bf16|-march=x86-64-v4 -mavx512bf16 -mprefer-vector-width=512")
set(INNERLOOP_ISA_TABLE_aarch64
    "neon|")

# innerloop_add_isas(<sources>...): one object library il_<name> a row; INNERLOOP_ISAS becomes the list of names.
function(innerloop_add_isas)
  string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
  if(processor MATCHES "^(x86_64|amd64)$")
    set(table "${INNERLOOP_ISA_TABLE_x86_64}")
  elseif(processor MATCHES "^(aarch64|arm64)$")
    set(table "${INNERLOOP_ISA_TABLE_aarch64}")
  else()
    message(FATAL_ERROR "innerloop has no kernels for ${CMAKE_SYSTEM_PROCESSOR}: add a row to cmake/isa.cmake")
  endif()
  foreach(row IN LISTS table)
    string(REPLACE "|" ";" row "${row}")
    list(GET row 0 name)
    if(INNERLOOP_ONLY AND NOT name IN_LIST INNERLOOP_ONLY)
      continue()
    endif()
    list(LENGTH row length)
    add_library(il_${name} OBJECT ${ARGN})
    target_link_libraries(il_${name} PRIVATE innerloop_flags)
    target_compile_definitions(il_${name} PRIVATE INNERLOOP_ISA=${name})
    if(length GREATER 1)
      list(GET row 1 flags)
      separate_arguments(flags)
      target_compile_options(il_${name} PRIVATE ${flags})
    endif()
    list(APPEND names ${name})
  endforeach()
  set(INNERLOOP_ISAS ${names} PARENT_SCOPE)
endfunction()
