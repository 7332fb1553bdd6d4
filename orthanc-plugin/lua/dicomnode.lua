-- Routes every stable CT series to a dicomnode, for Orthancs without the Python plugin.
--
--   "LuaScripts": ["/etc/orthanc/dicomnode.lua"]
--   "DicomModalities": { "dicomnode": ["DICOMNODE", "127.0.0.1", 11112] }
--
-- What it does: sends a CT series when it is stable, by a job of Orthanc's, so that nothing waits for it; never
-- sends what a dicomnode has made; sends a series again when more images of it have come; tries again what failed.
--
-- What it cannot do, and the Python plugin can:
--   * It keeps nothing but words in the metadata of a series. A series that was not yet stable, or whose sending
--     had failed, when Orthanc was stopped or killed is NOT sent after the restart. Nothing looks for it.
--   * Lua has no timer in Orthanc 1.10.1. What failed is tried again at the next event (an image stored, a series
--     stable, a job ended) after its pause: with no event, never. Newer versions call OnHeartBeat, which is used
--     where "LuaHeartBeatPeriod" is set.
--   * No progress, no button, no route, no pull. It looks at the first image of a series only.

local MODALITY = 'dicomnode'            -- a name in DicomModalities
local FIRST_PAUSE, LONGEST_PAUSE = 10, 600  -- seconds
local STATE_METADATA = 4310

-- Change this to choose what is sent. `series` are the main tags of the series, `image` the tags of its first
-- image, both by name. True: send.
function DicomNodeFilter(series, image)
   local kind = string.upper(image['ImageType'] or '')
   if string.find(kind, 'LOCALIZER', 1, true) or string.find(kind, 'DERIVED\\SECONDARY', 1, true) then
      return false
   end
   return image['Modality'] == 'CT'
end

-- Any one mark is enough; de-identification does not remove them.
local function MadeByADicomnode(image)
   if string.find(string.upper(image['ImageType'] or ''), 'AI_DENOISED', 1, true) then
      return true
   end
   if string.lower(image['Manufacturer'] or '') == 'dicomnode' then
      return true
   end
   for _, code in pairs(image['DerivationCodeSequence'] or {}) do
      if code['CodingSchemeDesignator'] == '99LDCT' then
         return true
      end
   end
   for _, equipment in pairs(image['ContributingEquipmentSequence'] or {}) do
      if string.lower(equipment['Manufacturer'] or '') == 'dicomnode' then
         return true
      end
   end
   return false
end

local jobs = {}     -- name of a job -> series
local failures = {} -- series -> how often in a row, and not before when (Unix time, seconds)

local function Say(series, words)
   RestApiPut('/series/' .. series .. '/metadata/' .. STATE_METADATA, words)
end

local function Send(series)
   if failures[series] then
      failures[series].due = nil -- sent now: whatever made it due has its answer
   end
   local answer = RestApiPost('/modalities/' .. MODALITY .. '/store',
                              DumpJson({ Resources = { series }, Synchronous = false }))
   local job = answer and ParseJson(answer)['ID']
   if job then
      jobs[job] = series
      Say(series, 'sending')
   else
      failures[series] = nil
      print('dicomnode: cannot send series ' .. series .. ': is ' .. MODALITY .. ' in DicomModalities?')
   end
end

-- Tries again one series that is due. Called at every event: cheap where nothing has failed.
local function Again()
   for series, failed in pairs(failures) do
      if failed.due and os.time() >= failed.due then
         Send(series)
         return
      end
   end
end

function OnStableSeries(seriesId, tags, metadata)
   if tags['Modality'] == 'CT' then
      local instances = ParseJson(RestApiGet('/series/' .. seriesId))['Instances']
      local image = instances[1] and ParseJson(RestApiGet('/instances/' .. instances[1] .. '/simplified-tags'))
      if image and not MadeByADicomnode(image) and DicomNodeFilter(tags, image) then
         Send(seriesId)
      end
   end
   Again()
end

function OnJobSuccess(jobId)
   local series = jobs[jobId]
   if series then
      jobs[jobId] = nil
      failures[series] = nil
      Say(series, 'sent: all images are at the node')
   end
   Again()
end

function OnJobFailure(jobId)
   local series = jobs[jobId]
   if series then
      jobs[jobId] = nil
      local times = (failures[series] and failures[series].times or 0) + 1
      local pause = math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ math.min(times - 1, 30))
      failures[series] = { times = times, due = os.time() + pause }
      local answer = RestApiGet('/jobs/' .. jobId) -- nothing where "JobsHistorySize" is small
      local job = answer and ParseJson(answer) or {}
      local words = job['ErrorDetails'] or job['ErrorDescription'] or "Orthanc's log says why"
      Say(series, 'attempt ' .. times .. ' failed (' .. words .. '); again after ' .. pause ..
                  ' s, at the next event')
      print('dicomnode: sending series ' .. series .. ' failed: ' .. words)
   end
end

function OnStoredInstance(instanceId, tags, metadata, origin)
   Again()
end

function OnHeartBeat()
   Again()
end
